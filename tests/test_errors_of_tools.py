"""What is wrong for every tool alike: a class, a flag, a function."""

import mlx.core as mx
import mlx.nn as nn
import pytest

import chandrop.nn
from chandrop.nn import (
    Dropout,
    DropPath,
    check_step,
    checkpoint,
    convert,
    functional_call,
    get_keys,
    rekey,
    revert,
    set_keys,
    stack_parameters,
    wrap_transforms,
)
from chandrop.uncertainty import predict

X = mx.ones((2, 4))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.dropout = nn.Linear(4, 4), Dropout(0.5)

    def __call__(self, x):
        return self.dropout(self.linear(x))


TAKE_A_MODEL = {
    "functional_call": lambda model, key: functional_call(model, {}, X, key=key),
    "convert": lambda model, key: convert(model),
    "revert": lambda model, key: revert(model),
    "rekey": rekey,
    "get_keys": lambda model, key: get_keys(model),
    "set_keys": lambda model, key: set_keys(model, {}, strict=False),
    "checkpoint": lambda model, key: checkpoint(model),
    "check_step": lambda model, key: check_step(model, lambda: 0),
    "stack_parameters": lambda model, key: stack_parameters([model]),
}


@pytest.mark.parametrize("tool", TAKE_A_MODEL)
@pytest.mark.parametrize("kind", [Model, Dropout])
def test_a_class_in_the_place_of_a_model(tool, kind, key):
    message = (
        rf"that is the class {kind.__name__} itself\. Expected an mlx\.nn\.Module; "
        rf"build it: {kind.__name__}\(\.\.\.\)\."
    )
    with pytest.raises(TypeError, match=message):
        TAKE_A_MODEL[tool](kind, key)


@pytest.mark.parametrize("tool", TAKE_A_MODEL)
@pytest.mark.parametrize("wrong", [None, 3, lambda x: x], ids=["None", "int", "function"])
def test_what_is_no_model(tool, wrong, key):
    message = rf"Received (a m|m)\S+ of type {type(wrong).__name__}\. Expected an mlx\.nn"
    with pytest.raises(TypeError, match=message):
        TAKE_A_MODEL[tool](wrong, key)


@pytest.mark.parametrize("flag", ["no", "off", 0, 1, None], ids=repr)
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("strict", lambda flag: set_keys(Model(), get_keys(Model()), strict=flag)),
        ("on", wrap_transforms),
        (
            "return_state",
            lambda flag: functional_call(Model().eval(), {}, X, return_state=flag),
        ),
    ],
)
def test_what_is_no_flag(name, call, flag):
    vmap = mx.vmap
    with pytest.raises(
        TypeError, match=rf"Received {name} = {flag!r}\. Expected True or F"
    ):
        call(flag)
    assert mx.vmap is vmap


CHOOSE = {
    "where": lambda choice: convert(nn.Sequential(nn.Dropout(0.5)), where=choice),
    "dropout": lambda choice: functional_call(
        Model(), {}, X, key=mx.random.key(0), dropout=choice
    ),
    "predict": lambda choice: predict(
        Model(), mx.random.split(mx.random.key(0), 2), X, dropout=choice
    ),
}


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            lambda path: True,
            lambda: True,
            lambda a, b, c: True,
            lambda path, *, layer: True,
        ),
        *(Dropout(0.5), Dropout, nn.Dropout, DropPath, str, "no", 0.5, ["dropout"]),
    ],
    ids=lambda wrong: repr(wrong).split(" at ")[0],
)
@pytest.mark.parametrize("by", CHOOSE)
def test_what_cannot_choose_layers(by, wrong):
    name = "where" if by == "where" else "dropout"
    with pytest.raises(TypeError, match=rf"Received {name} = ") as error:
        CHOOSE[by](wrong)
    message = str(error.value)
    assert ("Expected True, False, None or a function" in message) == (name == "dropout")
    fix = message.split(f"{name}=")[1].removesuffix(".")
    assert fix.startswith("lambda path, layer: ")
    names = vars(chandrop.nn) | {"nn": nn, "str": str}
    assert isinstance(eval(fix, names)("", Dropout()), bool)


class Choice:
    def __call__(self, path, layer, *others):
        return True


class WithoutSignature(Choice):
    @property
    def __signature__(self):
        raise ValueError("no signature found")


@pytest.mark.parametrize(
    "choice",
    [
        *(lambda path, layer: True, lambda *both: True, lambda path, layer, more=1: True),
        *(Choice(), Choice().__call__, WithoutSignature()),
    ],
    ids=lambda choice: type(choice).__name__,
)
@pytest.mark.parametrize("by", CHOOSE)
def test_what_can_choose_layers(by, choice):
    CHOOSE[by](choice)


@pytest.mark.parametrize("step", [None, X, nn.Linear, "step"], ids=lambda s: str(type(s)))
def test_what_is_no_step(step):
    message = r"a step .*\. Expected a function: check_step\(model, step, x\)\."
    with pytest.raises(TypeError, match=message):
        check_step(Model(), step, X)


@pytest.mark.parametrize("fn", [X, nn.Linear, "fn"], ids=lambda s: str(type(s)))
def test_what_is_no_function_to_checkpoint(fn):
    message = r"Received fn .*Expected a function; pass .*: checkpoint\(module\)\(x\)\."
    with pytest.raises(TypeError, match=message):
        checkpoint(Model(), fn)
