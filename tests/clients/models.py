"""Models of other packages, by their own classes, tiny and with random weights."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

VOCABULARY = 32
WIDTH = 32
RATE = 0.2
TOKENS = mx.random.randint(0, VOCABULARY, (2, 9), key=mx.random.key(0))
IMAGES = mx.random.normal((2, 32, 32, 3), key=mx.random.key(1))
VECTORS = mx.random.normal((2, 9, 16), key=mx.random.key(2))
SOUND = mx.random.normal((2, 400), key=mx.random.key(3))
SPECTRA = mx.random.normal((2, 64, 32), key=mx.random.key(4))
EDGES = mx.array([[0, 1, 2, 3, 4], [0, 0, 1, 1, 3]])
NODES = mx.random.normal((5, 8), key=mx.random.key(5))


@dataclass
class Client:
    """A model of a package, its input, and how many dropout layers its source has.

    Attributes:
        output: of what the model returns, the array that matters.
        draws_by_hand: whether it draws from the global stream in training mode, too.
        is_graph: whether axis 0 of its input holds nodes or edges, not examples.
        flattens: the layer that receives batch and positions as one axis, if any.
        maps: whether MLX can vmap it.
    """

    name: str
    package: str
    build: Callable[[], nn.Module]
    inputs: tuple[Any, ...]
    dropouts: int
    output: Callable[[Any], mx.array] = lambda y: y
    draws_by_hand: bool = False
    is_graph: bool = False
    flattens: str | None = None
    maps: bool = True

    def __call__(self, model: nn.Module) -> mx.array:
        return self.output(model(*self.inputs))

    def network(self, model: nn.Module) -> nn.Module:
        """The model with the output that matters alone."""
        return Network(model, self.output)


class Network(nn.Module):
    def __init__(self, model, output):
        super().__init__()
        self.model, self.output = model, output

    def __call__(self, *inputs):
        return self.output(self.model(*inputs))


# Those that are installed: test_versions.py names the others.
CLIENTS: list[Client] = []


def client(name: str, package: str, *inputs: Any, dropouts: int, **options: Any) -> Any:
    """Adds a client. The decorated function builds its model."""

    def add(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        if find_spec(package):
            CLIENTS.append(Client(name, package, build, inputs, dropouts, **options))
        return build

    return add


# mlx.nn


class Encoder(nn.TransformerEncoder):
    def __call__(self, x):
        return super().__call__(x, None)


@client("mlx.nn TransformerEncoder", "mlx", VECTORS, dropouts=4)
def transformer_encoder():
    return Encoder(2, 16, 2, dropout=RATE)


@client("mlx.nn TransformerEncoder, checkpointed", "mlx", VECTORS, dropouts=4)
def checkpointed_encoder():
    return Encoder(2, 16, 2, dropout=RATE, checkpoint=True)


# mlx-image


@client("mlx-image ViT", "mlxim", IMAGES, dropouts=7)
def vit():
    from mlxim.model.vit.vit import VisionTransformer

    return VisionTransformer(32, 8, 2, 2, 16, 32, dropout=RATE, num_classes=10)


@client("mlx-image Swin", "mlxim", IMAGES, dropouts=8, draws_by_hand=True)
def swin():
    from mlxim.model.swin_transformer.swin_transformer import (
        ShiftedWindowAttention,
        SwinTransformer,
    )

    model = SwinTransformer(
        [4, 4], 24, [2, 2], [2, 4], [4, 4], dropout=RATE, num_classes=10
    )
    for _, module in model.named_modules():
        if isinstance(module, ShiftedWindowAttention):
            module.dropout = 0.0  # fails in training mode: test_faults.py
    # Its integer indices are parameters, of which MLX takes no gradient.
    model.freeze(keys="relative_position_index")
    return model


@client("mlx-image EfficientNet", "mlxim", IMAGES, dropouts=1, draws_by_hand=True)
def efficientnet():
    from mlxim.model.efficientnet._blocks import MBConvConfig
    from mlxim.model.efficientnet.efficientnet import EfficientNet

    blocks = [
        MBConvConfig(1, 3, 1, 32, 16, 1, 0.5, 1.0),
        MBConvConfig(6, 3, 2, 16, 24, 2, 0.5, 1.0),
    ]
    model = EfficientNet(blocks, dropout=RATE, num_classes=10)
    # Without statistics of its own BatchNorm lets the features vanish.
    for _ in range(10):
        mx.eval(model(IMAGES), model.state)
    return model


# mlx-embeddings


@client(
    "mlx-embeddings BERT",
    "mlx_embeddings",
    TOKENS,
    dropouts=7,
    output=lambda y: y.last_hidden_state,
)
def bert():
    from mlx_embeddings.models.bert import Model, ModelArgs

    return Model(ModelArgs("bert", 2, 2, 16, 32, 16, RATE, RATE, vocab_size=VOCABULARY))


@client(
    "mlx-embeddings ModernBERT",
    "mlx_embeddings",
    TOKENS,
    mx.ones(TOKENS.shape),
    dropouts=5,
    output=lambda y: y["last_hidden_state"],
)
def modern_bert():
    from mlx_embeddings.models.modernbert import ModelArgs, ModernBertModel

    rates = {f"{part}_dropout": RATE for part in ("attention", "embedding", "mlp")}
    return ModernBertModel(ModelArgs("modernbert", VOCABULARY, 16, 2, 32, 2, **rates))


# mlx-audio


@client(
    "mlx-audio wav2vec",
    "mlx_audio",
    SOUND,
    dropouts=8,
    output=lambda y: y.last_hidden_state,
)
def wav2vec():
    from mlx_audio.stt.models.wav2vec.wav2vec import ModelConfig, Wav2Vec2Model

    config = ModelConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    return Wav2Vec2Model(config)


@client("mlx-audio Conformer", "mlx_audio", SPECTRA, dropouts=9, output=lambda y: y[0])
def conformer():
    from mlx_audio.sts.models.lfm_audio.config import ConformerEncoderConfig
    from mlx_audio.sts.models.lfm_audio.conformer import ConformerEncoder

    config = ConformerEncoderConfig(
        feat_in=32, n_layers=2, d_model=16, n_heads=2, subsampling_conv_channels=8
    )
    model = ConformerEncoder(config)
    # Its table of positions becomes a parameter at the first call.
    model(SPECTRA)
    model.pos_enc.freeze()
    return model


# mlx-graphs


@client("mlx-graphs GAT", "mlx_graphs", EDGES, NODES, dropouts=1, is_graph=True)
def gat():
    from mlx_graphs.nn import GATConv

    return GATConv(8, 4, heads=2, dropout=0.5)


@client("mlx-graphs GATv2", "mlx_graphs", EDGES, NODES, dropouts=1, is_graph=True)
def gat_v2():
    from mlx_graphs.nn import GATv2Conv

    return GATv2Conv(8, 4, heads=2, dropout=0.5)


# mlx-lm and mlx-vlm


def llama(**arguments):
    from mlx_lm.models.llama import Model, ModelArgs

    shape = ModelArgs("llama", WIDTH, 2, 2 * WIDTH, 2, 1e-5, VOCABULARY, **arguments)
    return Model(shape)


def mixture_of_experts():
    from mlx_lm.models.olmoe import Model, ModelArgs

    return Model(ModelArgs("olmoe", WIDTH, 2, WIDTH, 2, 1e-5, VOCABULARY, 4, 2))


def as_trained(model):
    """Adds noise to what is trained: at first adapters change nothing."""
    weights = model.trainable_parameters()
    model.update(tree_map(lambda w: w + 0.1 * mx.random.normal(w.shape), weights))
    return model


def lora(model, p=RATE, keys=None, **options):
    from mlx_lm.tuner.utils import linear_to_lora_layers

    config = {"rank": 4, "scale": 10.0, "dropout": p, "keys": keys}
    model.freeze()
    linear_to_lora_layers(model, len(model.layers), config, **options)
    return as_trained(model)


@client("mlx-lm LoRA", "mlx_lm", TOKENS, dropouts=14)
def llama_with_lora():
    return lora(llama())


@client("mlx-lm DoRA", "mlx_lm", TOKENS, dropouts=14)
def llama_with_dora():
    return lora(llama(), use_dora=True)


@client("mlx-lm LoRA of embeddings", "mlx_lm", TOKENS, dropouts=3)
def llama_with_lora_of_embeddings():
    return lora(llama(), keys=["model.embed_tokens", "self_attn.q_proj"])


@client("mlx-lm DoRA of embeddings", "mlx_lm", TOKENS, dropouts=3)
def llama_with_dora_of_embeddings():
    keys = ["model.embed_tokens", "self_attn.q_proj"]
    return lora(llama(), keys=keys, use_dora=True)


@client(
    "mlx-lm LoRA of experts",
    "mlx_lm",
    TOKENS,
    dropouts=16,
    maps=False,
    flattens="model.layers.0.mlp.gate.dropout",
)
def experts_with_lora():
    return lora(mixture_of_experts())


@client("mlx-lm LoRA, quantised", "mlx_lm", TOKENS, dropouts=14, maps=False)
def quantised_llama_with_lora():
    model = llama()
    nn.quantize(model, group_size=32, bits=4)
    return lora(model)


@client("mlx-vlm LoRA", "mlx_vlm", TOKENS, dropouts=14)
def llama_with_lora_by_mlx_vlm():
    from mlx_vlm.trainer.common.model import prepare_model_for_training

    model = prepare_model_for_training(
        llama(), lora_rank=4, lora_dropout=RATE, verbose=False
    )
    return as_trained(model)


@contextmanager
def class_as_it_was(model):
    """Undoes what the checkpointing of mlx-lm and mlx-vlm does to the blocks' class."""
    kind = type(model.layers[0])
    call = kind.__call__
    try:
        yield
    finally:
        kind.__call__ = call
