"""The configuration: what it accepts, what it refuses, and the words it refuses with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from esans.config import (
    Added,
    Fraction,
    PositiveFloat,
    PositiveInt,
    Runtime,
    build,
    config,
    document,
    flatten,
    merge,
    parse_override,
    read_yaml,
    section,
    to_dict,
)
from esans.errors import ConfigError


@config
class Optimiser:
    """A nested section."""

    rate: PositiveFloat = 0.1
    """Learning rate, per step. Above 0."""
    kind: Literal["adam", "sgd"] = "adam"
    """Update rule."""
    low: float = 0.0
    """Lower end."""
    high: float = 1.0
    """Upper end."""

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"optimiser.low = {self.low} must not exceed optimiser.high = {self.high}")


@config
class Example:
    """A configuration."""

    epochs: PositiveInt = 3
    """Passes over the data. At least 1."""
    share: Fraction = 0.5
    """A share, 0 to 1."""
    chunk: Annotated[PositiveInt, Runtime] = 1000
    """Rows at a time."""
    names: list[str] = dataclasses.field(default_factory=list)
    """Names."""
    optimiser: Optimiser = section(Optimiser)
    """The optimiser."""
    steps: list[Optimiser] = dataclasses.field(default_factory=list)
    """Several."""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 1}, "epoch: unknown key. Did you mean 'epochs'? Allowed here: epochs, share, chunk, names, optimiser, steps."),
        ({"optimiser": {"zeal": 1}}, "optimiser.zeal: unknown key. Allowed here: rate, kind, low, high."),
        ({"steps": [{}, {"rates": 1}]}, "steps.1.rates: unknown key. Did you mean 'rate'? Allowed here: rate, kind, low, high."),
        ({"epochs": "many"}, "epochs = 'many': must be a valid integer, unable to parse string as an integer."),
        ({"epochs": 2.5}, "epochs = 2.5: must be a valid integer, got a number with a fractional part."),
        ({"epochs": 0}, "epochs = 0: must be greater than or equal to 1."),
        ({"epochs": None}, "epochs = None: must be a valid integer."),
        ({"share": 1.5}, "share = 1.5: must be less than or equal to 1."),
        ({"names": "one"}, "names = 'one': must be a list, written [a, b]."),
        ({"optimiser": {"rate": -1}}, "optimiser.rate = -1: must be greater than 0."),
        ({"optimiser": {"kind": "adma"}}, "optimiser.kind = 'adma': must be 'adam' or 'sgd'."),
        ({"optimiser": 3}, "optimiser = 3: must be a section with keys of its own. Allowed there: rate, kind, low, high."),
        ({"optimiser": {"low": 2}}, "optimiser: optimiser.low = 2.0 must not exceed optimiser.high = 1.0"),
    ],
)
def test_a_refused_value_is_named_with_its_key_and_what_is_allowed(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build(Example, values)
    assert str(refused.value) == message


def test_every_problem_gets_a_line_of_its_own() -> None:
    with pytest.raises(ConfigError) as refused:
        build(Example, {"epochs": 0, "share": -1})
    assert str(refused.value).splitlines() == [
        "epochs = 0: must be greater than or equal to 1.",
        "share = -1: must be greater than or equal to 0.",
    ]


def test_a_section_whose_keys_are_all_commented_out_means_its_defaults() -> None:
    assert build(Example, yaml.safe_load("optimiser:\n  # rate: 3\nepochs: 4")) == Example(epochs=4)


@pytest.mark.parametrize(
    ("argument", "nested"),
    [
        ("--train.batch_size=256", {"train": {"batch_size": 256}}),
        ("--seed=1", {"seed": 1}),
        ("--method=esans", {"method": "esans"}),
        ("--pipeline.methods=[uniform, esans]", {"pipeline": {"methods": ["uniform", "esans"]}}),
        ("--a.b={c: 1}", {"a": {"b": {"c": 1}}}),
        ("--a=", {"a": None}),
        ("--a=x=y", {"a": "x=y"}),
    ],
)
def test_an_override_is_a_dotted_key_and_a_yaml_value(argument: str, nested: dict[str, Any]) -> None:
    assert parse_override(argument) == nested


@pytest.mark.parametrize("argument", ["train.batch_size=1", "--seed", "--=1", "seed"])
def test_what_is_no_override_is_refused_with_an_example(argument: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_override(argument)
    assert str(refused.value) == f"cannot read {argument!r}: overrides look like --train.batch_size=256"


def test_an_override_that_is_no_yaml_names_its_key() -> None:
    with pytest.raises(ConfigError, match=r"^cannot read the value of --a\.b: '\[1' is not valid YAML$"):
        parse_override("--a.b=[1")


values = st.recursive(
    st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(st.text(max_size=2), values, max_size=4)


@given(mappings, mappings, mappings)
def test_merging_is_associative_and_the_later_one_wins(first: dict, second: dict, third: dict) -> None:
    # A mapping over a scalar and back again is where associativity ends; configs never change a key's kind.
    if _same_kinds(first, second) and _same_kinds(second, third) and _same_kinds(first, third):
        assert merge(merge(first, second), third) == merge(first, merge(second, third))
    assert merge(first, {}) == first
    assert merge({}, first) == first
    for key, value in second.items():
        if not isinstance(value, dict):
            assert merge(first, second)[key] == value


def _same_kinds(left: dict, right: dict) -> bool:
    for key in left.keys() & right.keys():
        if isinstance(left[key], dict) != isinstance(right[key], dict):
            return False
        if isinstance(left[key], dict) and not _same_kinds(left[key], right[key]):
            return False
    return True


@given(mappings)
def test_merging_leaves_its_arguments_alone(values: dict) -> None:
    before = repr(values)
    merge(values, {"a": {"b": 1}})
    assert repr(values) == before


def test_flat_keys_are_the_dotted_ones_and_lists_of_sections_are_numbered() -> None:
    flat = flatten(to_dict(Example(names=["a"], steps=[Optimiser(rate=2.0)])))
    assert flat["optimiser.rate"] == 0.1
    assert flat["names"] == ["a"]
    assert flat["steps.0.rate"] == 2.0


def test_what_only_changes_how_a_stage_runs_stays_out_of_its_fingerprint() -> None:
    assert "chunk" in to_dict(Example())
    assert to_dict(Example(chunk=1), results_only=True) == to_dict(Example(chunk=2), results_only=True)


def test_a_key_that_was_added_later_is_in_a_fingerprint_only_where_it_is_set() -> None:
    @config
    class Later:
        """Grown."""

        old: int = 1
        """There from the start."""
        new: Annotated[PositiveInt, Added] = 2
        """Came later."""
        part: Annotated[Optimiser, Added] = section(Optimiser)
        """Came later too."""

    assert to_dict(Later(), results_only=True) == to_dict(Later(new=2), results_only=True) == {"old": 1}
    assert to_dict(Later(new=3), results_only=True) == {"old": 1, "new": 3}
    assert to_dict(build(Later, {"part": {"rate": 0.5}}), results_only=True)["part"]["rate"] == 0.5
    assert set(to_dict(Later())) == {"old", "new", "part"}


def test_every_key_is_documented_with_type_default_and_docstring() -> None:
    keys = {key.name: key for key in document(Example)}
    assert keys["optimiser.rate"].type == "float"
    assert keys["optimiser.rate"].default == "0.1"
    assert keys["optimiser.rate"].help == "Learning rate, per step. Above 0."
    assert list(keys)[:3] == ["epochs", "share", "chunk"]


def test_inherited_keys_keep_their_docstrings() -> None:
    @config
    class Special(Optimiser):
        extra: int = 0
        """Something more."""

    helps = {key.name: key.help for key in document(Special)}
    assert helps["rate"] == "Learning rate, per step. Above 0."
    assert helps["extra"] == "Something more."


@given(
    st.builds(
        dict,
        epochs=st.integers(1, 10**9),
        share=st.floats(0, 1),
        names=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=5), max_size=3),
        optimiser=st.builds(dict, rate=st.floats(1e-300, 1e300), kind=st.sampled_from(["adam", "sgd"])),
    )
)
def test_a_printed_configuration_reads_back_as_itself(values: dict[str, Any]) -> None:
    built = build(Example, values)
    assert build(Example, yaml.safe_load(yaml.safe_dump(to_dict(built), allow_unicode=True))) == built


def test_a_file_that_is_absent_broken_or_no_mapping_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^config file not found: /nowhere.yaml$"):
        read_yaml("/nowhere.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(ConfigError, match=f"^config file {broken} is not valid YAML: "):
        read_yaml(str(broken))
    broken.write_text("- a")
    with pytest.raises(ConfigError, match=f"^config file {broken} must hold a mapping of sections, not a list$"):
        read_yaml(str(broken))
    broken.write_text("")
    assert read_yaml(str(broken)) == {}
