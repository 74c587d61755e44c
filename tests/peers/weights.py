"""The weight dropout of baal and torchnlp, with the numbers of modules of MLX."""

import sys
from unittest import mock

import numpy as np
import torch
from peers.without_init import load_without_init

# It imports this by the package's name.
_common = {"baal.bayesian.common": load_without_init("baal", "bayesian.common")}
with mock.patch.dict(sys.modules, _common):
    baal = load_without_init("baal", "bayesian.weight_drop")
torchnlp = load_without_init("torchnlp", "nn.weight_drop")
torchnlp_locked = load_without_init("torchnlp", "nn.lock_dropout")


def weight_dropped_lstm(p):
    """An LSTM that torchnlp has changed, since what it returns has no parameters."""
    lstm = torch.nn.LSTM(4, 6, batch_first=True)
    wrapper = torchnlp.WeightDrop(lstm, ["weight_hh_l0"], p)
    assert wrapper.forward == lstm.forward
    return lstm


def channels_first(array):
    array = np.array(array)
    return np.moveaxis(array, -1, 1) if array.ndim == 4 else array


def numbers_of(module):
    """Torch's names of the parameters of a module of MLX, and their values."""
    if "Wh" not in module:
        return {"weight": channels_first(module.weight), "bias": np.array(module.bias)}
    bias = np.array(module.bias if "bias" in module else module.b)
    other = np.zeros_like(bias)
    if "bhn" in module:
        other[-module.bhn.size :] = np.array(module.bhn)
    recurrent = {"weight_ih": module.Wx, "weight_hh": module.Wh}
    recurrent |= {"bias_ih": bias, "bias_hh": other}
    return {f"{name}_l0": np.array(array) for name, array in recurrent.items()}


def their_output(theirs, module, mask, p, x):
    """Calls a torch module with the numbers of `module`, the weight masked by `mask`."""
    parameters = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, array in numbers_of(module).items():
            own = parameters.get(name, parameters.get(f"{name}_raw"))
            own.copy_(torch.tensor(array))

    def masked(weight, p, training, expected=p):
        assert (p, training) == (expected, True)
        return weight * torch.tensor(channels_first(mask))

    with mock.patch.object(torch.nn.functional, "dropout", masked), torch.no_grad():
        y = theirs(torch.tensor(channels_first(x)))
    y = (y[0] if isinstance(y, tuple) else y).numpy()
    return np.moveaxis(y, 1, -1) if y.ndim == 4 else y
