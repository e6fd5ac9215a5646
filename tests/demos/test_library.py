"""The standard library as data: enough of it, and nothing held out is learnt from."""

from jaxformers.demos.learn import texts
from jaxformers.demos.library import held_out, modules
from jaxformers.demos.search import corpus


def test_the_standard_library_has_enough_to_say():
    lines = corpus(300)
    assert len(lines) == len(set(lines)) == 300
    assert all(": " in line and len(line) > 30 for line in lines)
    assert len({line.split(".")[0] for line in lines}) > 40


def test_whole_packages_are_held_out():
    """A package's modules are on one side, and which side follows from the name alone, in any Python."""
    names = [name for name, _ in modules()]
    assert held_out("asyncio") and held_out("unittest.mock") and not held_out("json") and not held_out("argparse")
    sides = {name.partition(".")[0]: held_out(name) for name in names}
    assert all(held_out(name) == sides[name.partition(".")[0]] for name in names)
    assert not any(part in name.split(".") for name in names for part in ("test", "idlelib", "site-packages"))


def test_what_is_held_out_is_not_learnt_from():
    train, test = texts()
    assert not set(train) & set(test)
    sizes = [sum(map(len, part)) for part in (train, test)]
    assert sizes[0] > 4e6 and 0.05 < sizes[1] / sum(sizes) < 0.25
    assert len(texts(share=4).test) == len(test) and len(texts(share=4).train) == -(-len(train) // 4)
