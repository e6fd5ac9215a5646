"""The languages that Whisper knows, in the order of their tokens, and the names they go by."""

from __future__ import annotations

# openai/whisper, tokenizer.py: the token of a language lies behind <|startoftranscript|> at its place in this list.
_NAMES = """
en english  zh chinese  de german  es spanish  ru russian  ko korean  fr french  ja japanese  pt portuguese  tr turkish
pl polish  ca catalan  nl dutch  ar arabic  sv swedish  it italian  id indonesian  hi hindi  fi finnish  vi vietnamese
he hebrew  uk ukrainian  el greek  ms malay  cs czech  ro romanian  da danish  hu hungarian  ta tamil  no norwegian
th thai  ur urdu  hr croatian  bg bulgarian  lt lithuanian  la latin  mi maori  ml malayalam  cy welsh  sk slovak
te telugu  fa persian  lv latvian  bn bengali  sr serbian  az azerbaijani  sl slovenian  kn kannada  et estonian
mk macedonian  br breton  eu basque  is icelandic  hy armenian  ne nepali  mn mongolian  bs bosnian  kk kazakh
sq albanian  sw swahili  gl galician  mr marathi  pa punjabi  si sinhala  km khmer  sn shona  yo yoruba  so somali
af afrikaans  oc occitan  ka georgian  be belarusian  tg tajik  sd sindhi  gu gujarati  am amharic  yi yiddish  lo lao
uz uzbek  fo faroese  ht haitian_creole  ps pashto  tk turkmen  nn nynorsk  mt maltese  sa sanskrit  lb luxembourgish
my myanmar  bo tibetan  tl tagalog  mg malagasy  as assamese  tt tatar  haw hawaiian  ln lingala  ha hausa  ba bashkir
jw javanese  su sundanese  yue cantonese
""".split()

LANGUAGES: dict[str, str] = dict(zip(_NAMES[::2], (name.replace("_", " ") for name in _NAMES[1::2]), strict=True))
CODES: dict[str, str] = {name: code for code, name in LANGUAGES.items()} | {
    "burmese": "my",
    "valencian": "ca",
    "flemish": "nl",
    "haitian": "ht",
    "letzeburgesch": "lb",
    "pushto": "ps",
    "panjabi": "pa",
    "moldavian": "ro",
    "moldovan": "ro",
    "sinhalese": "si",
    "castilian": "es",
    "mandarin": "zh",
}
# Written without spaces between words.
UNSPACED = frozenset(("chinese", "japanese", "thai", "lao", "myanmar", "cantonese"))
TASKS = ("translate", "transcribe")


def language_code(language: str) -> str:
    """Return "de" for "German" or "de". Raises ValueError on a language that Whisper does not know."""
    name = language.lower()
    if name in CODES:
        return CODES[name]
    if name in LANGUAGES:
        return name
    known = list(LANGUAGES) if len(name) == 2 else list(CODES)
    raise ValueError(f"Whisper does not know the language {language!r}; use one of {known}")
