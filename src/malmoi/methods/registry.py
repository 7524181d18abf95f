"""Every method by name. A new one is a class and a line here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError, nearest
from malmoi.methods.base import Method
from malmoi.models.config import CELLS
from malmoi.tasks.base import Task
from malmoi.tasks.kinds import LABELS, Kind
from malmoi.util.tables import entry

# Classes, or where they are: one is loaded when it is asked for, as most of them bring PyTorch.
METHODS: dict[str, str | type[Method]] = {  # the simplest first
    "lexicon": "malmoi.methods.traditional.text_classifiers:Lexicon",
    "tfidf": "malmoi.methods.traditional.text_classifiers:TfIdf",
    "crf": "malmoi.methods.traditional.taggers:Crf",
    "ibm1": "malmoi.methods.traditional.word_alignment:Ibm1",
    "ngram": "malmoi.methods.traditional.ngrams:NGram",
    "lead": "malmoi.methods.traditional.extractive:Lead",
    "textrank": "malmoi.methods.traditional.extractive:TextRank",
    "sentence": "malmoi.methods.traditional.sentence_finder:SentenceSpan",
    "retrieval": "malmoi.methods.traditional.retrieval:Retrieval",
    **dict.fromkeys(CELLS, "malmoi.methods.neural.method:RecurrentMethod"),
    "transformer": "malmoi.methods.neural.method:TransformerMethod",
    "pretrained": "malmoi.methods.neural.pretrained:Pretrained",
    "features": "malmoi.methods.llm.features:Features",
    "prompted": "malmoi.methods.llm.prompted:Prompted",
    "finetuned": "malmoi.methods.llm.finetuned:FineTuned",
    "remote": "malmoi.methods.llm.remote:Remote",
    "cascade": "malmoi.methods.cascade:Cascade",
}
# Where a kind has a class of its own under a name.
OF_KIND: dict[Kind, dict[str, str]] = {
    LABELS: {
        "lexicon": "malmoi.methods.traditional.label_sets:LexiconSets",
        "tfidf": "malmoi.methods.traditional.label_sets:TfIdfSets",
        "features": "malmoi.methods.llm.feature_sets:FeatureSets",
    },
}
# Left out of "all": an LSTM stands for the recurrent family, a pre-trained encoder and what a cascade is made
# of must be named, and nothing leaves this machine unasked.
ON_REQUEST = {*CELLS, "pretrained", "remote", "cascade"} - {"lstm"}
_VARIANT = re.compile(r"[\w-]+")


def method_class(name: str, task: Task[Any, Any] | None = None) -> type[Method] | None:
    """The class behind a name; "prompted:one" is a variant of "prompted", with options of its own.

    task: what it is to do, where its kind may have a class of its own.
    """
    base = name.partition(":")[0]
    found = entry((OF_KIND.get(task.kind, {}) if task else {}).get(base) or METHODS.get(base))
    return None if found is None else found.named(base)


def settled_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a method's options that its predictions depend on."""
    method = method_class(name)
    return {option: it for option, it in options.items() if method is None or option not in method.free}


def methods_for(task: Task[Any, Any], *, all_known: bool = False, with_model: bool = False) -> list[str]:
    """The names of the methods that can do a task, the simplest first.

    with_model: also those that need a language model to begin with. all_known: those on request, too.
    """
    return [
        name
        for name in METHODS
        if (method := method_class(name, task))
        and method.suits(task)
        and (all_known or (name not in ON_REQUEST and (with_model or not method.needs_model)))
    ]


def quick_methods(task: Task[Any, Any]) -> list[str]:
    """The names of those that need no network, the simplest first."""
    found = {name: method_class(name, task) for name in methods_for(task)}
    return [name for name, method in found.items() if method and method.family == "traditional"]


def make_method(name: str, task: Task[Any, Any], options: Mapping[str, Any] | None = None) -> Method:
    """A method to fit. Raises UserError, with the nearest valid name, for a wrong name or option."""
    base, colon, variant = name.partition(":")
    method = method_class(base, task)
    if method is None or not method.suits(task):
        raise UserError(
            f"no method {base!r} for {task.name}; {nearest(base, methods_for(task, all_known=True))}"
        )
    if colon and not _VARIANT.fullmatch(variant):
        raise UserError(f"{name!r}: after the colon letters, digits, - and _ name a variant of {base}")
    try:
        return method(task, options)
    except ValidationError as error:
        raise UserError(_option_error(error, name, method.options_for(task))) from None


def method_options(
    task: Task[Any, Any], names: str, settings: Mapping[str, Any], model: str | None = None
) -> dict[str, dict[str, Any]]:
    """The methods named ("all", or with commas between), each with its options out of METHOD.OPTION=VALUE.

    model: of every method that needs one and is given no other. "all" has these methods only where there is a
    model, or an option of theirs. Raises UserError for an unknown method or option, and for an option of a
    method that is not named.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in _wanted(task, names, settings, model)}
    for setting, value in settings.items():
        name, _, option = setting.partition(".")
        if name not in found or not option:
            raise UserError(f"`set` {setting} is not METHOD.OPTION=VALUE for one of {', '.join(found)}")
        found[name][option] = value
    asking = [name for name in found if needs_model(name)]
    if model and not asking:
        raise UserError(f"`model` {model}: none of {', '.join(found)} needs a language model; leave it out")
    for name in asking if model else ():
        found[name] = {"model": model} | found[name]
    for name, options in found.items():
        make_method(name, task, options)
    return found


def needs_model(name: str) -> bool:
    """Whether the method of that name asks or tunes a language model."""
    method = method_class(name)
    return method is not None and method.needs_model


def _wanted(task: Task[Any, Any], names: str, settings: Mapping[str, Any], model: str | None) -> list[str]:
    if names != "all":
        return [name.strip() for name in names.split(",")]
    asking = [name for setting in settings if needs_model(name := setting.partition(".")[0])]
    return list(dict.fromkeys([*methods_for(task, with_model=model is not None), *asking]))


def _option_error(error: ValidationError, name: str, options: type[StrictModel]) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "options"
    if first["type"] == "extra_forbidden":
        return f"{name} has no option {where!r}; {nearest(where, options.model_fields)}"
    return f"{name}: {where}: {first['msg'].removeprefix('Value error, ')}"
