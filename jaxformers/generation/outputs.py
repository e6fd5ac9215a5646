"""What `generate` returns with return_dict_in_generate=True: transformers' names and structure.

Fields of steps are tuples with an entry for each new token; those of layers are tuples within them.
"""

from flax import struct

from jaxformers.core.outputs import Array, Layers, ModelOutput
from jaxformers.core.state import Cache

Steps = tuple[Array, ...]
LayersOfSteps = tuple[Layers, ...]


@struct.dataclass
class GenerateDecoderOnlyOutput(ModelOutput):
    """sequences [B,P+N]; scores and logits [B,V] for each new token; attentions [B,H,T,S]; hidden_states [B,T,D]."""

    sequences: Array
    scores: Steps | None = None
    logits: Steps | None = None
    attentions: LayersOfSteps | None = None
    hidden_states: LayersOfSteps | None = None
    past_key_values: Cache | None = None


@struct.dataclass
class GenerateEncoderDecoderOutput(ModelOutput):
    """As `GenerateDecoderOnlyOutput`, for both sides."""

    sequences: Array
    scores: Steps | None = None
    logits: Steps | None = None
    encoder_attentions: Layers | None = None
    encoder_hidden_states: Layers | None = None
    decoder_attentions: LayersOfSteps | None = None
    cross_attentions: LayersOfSteps | None = None
    decoder_hidden_states: LayersOfSteps | None = None
    past_key_values: Cache | None = None


@struct.dataclass
class GenerateBeamDecoderOnlyOutput(ModelOutput):
    """Besides: sequences_scores [B]; beam_indices [B,N], the beam that each token came from, -1 after the end."""

    sequences: Array
    sequences_scores: Array | None = None
    scores: Steps | None = None
    logits: Steps | None = None
    beam_indices: Array | None = None
    attentions: LayersOfSteps | None = None
    hidden_states: LayersOfSteps | None = None
    past_key_values: Cache | None = None


@struct.dataclass
class GenerateBeamEncoderDecoderOutput(ModelOutput):
    """As `GenerateBeamDecoderOnlyOutput`, for both sides."""

    sequences: Array
    sequences_scores: Array | None = None
    scores: Steps | None = None
    logits: Steps | None = None
    beam_indices: Array | None = None
    encoder_attentions: Layers | None = None
    encoder_hidden_states: Layers | None = None
    decoder_attentions: LayersOfSteps | None = None
    cross_attentions: LayersOfSteps | None = None
    decoder_hidden_states: LayersOfSteps | None = None
    past_key_values: Cache | None = None


GenerateOutput = (
    GenerateDecoderOnlyOutput
    | GenerateEncoderDecoderOutput
    | GenerateBeamDecoderOnlyOutput
    | GenerateBeamEncoderDecoderOutput
)
