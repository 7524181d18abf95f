"""The whole road on one page: text, tokens, small models, a foundation model, seven tasks, a report."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from malmoi.demo.answering import before_and_after, shipped_chat, tuned
from malmoi.demo.completing import further, shipped_base
from malmoi.demo.material import CONTEXT, DemoText, Errors, claim, sample_world, users_text, write_examples
from malmoi.demo.plan import ACTS, OWN_ACTS, QUICK, WHOLE, Clock
from malmoi.demo.seven_tasks import answer_tasks
from malmoi.demo.small_models import small_models
from malmoi.hub.card import this_machine
from malmoi.inside.tokens import cut, predictions
from malmoi.show.demo_report import (
    Answers,
    Report,
    show_cuts,
    show_exchanges,
    show_growth,
    show_report,
    write_report,
)
from malmoi.show.templates import one_line
from malmoi.text.tokenizer import train_tokenizer
from malmoi.util.hardware import keep_heap

VOCAB_SIZE = 2560
NAMES = {"word": "words", "character": "characters", "bpe": "sub-words (BPE)"}


def run_demo(
    data: Path | None, out: Path, *, quick: bool, field: str = "text", errors: Errors = "strict"
) -> None:
    """Run the demo, on the sample world or on `data`, and write its report in `out`.

    field, errors: how to read `data` (see `open_corpus`). Raises UserError where `out` holds something else.
    """
    keep_heap()
    material = users_text(data, out, field, errors) if data else sample_world(out)
    claim(out)
    clock = Clock(QUICK if quick else WHOLE, OWN_ACTS if data else ACTS)
    report = _play(material, out, clock, own=data is not None)
    show_report(report, write_report(report, out))


def _play(material: DemoText, out: Path, clock: Clock, *, own: bool) -> Report:
    """All acts; own: the text is the user's, so nothing is known of its grammar and its tasks."""
    plan = clock.plan
    clock.begin(1)
    tokenizers = {kind: train_tokenizer(material.sample, kind, VOCAB_SIZE) for kind in NAMES}
    cuts = {
        name: [cut(NAMES[kind], tokenizer, text) for kind, tokenizer in tokenizers.items()]
        for name, text in material.stories.items()
    }
    show_cuts(cuts)
    tokenizers["bpe"].save(out / "tokenizer")
    clock.lap("tokens")
    clock.begin(2)
    models = small_models(material, out, clock, own=own)
    clock.begin(3)
    base, answers = shipped_base(material, 0 if own else plan.pairs), Answers()
    show_growth(base.result.name, base.growth, material.prompts)
    if own:
        base = further(base, material, out, plan.reading_s)
        clock.lap("the foundation model reads on")
    else:
        write_examples(out, plan)
        chat = shipped_chat() if plan.tuning_s is None else tuned(out, plan.tuning_s)
        exchanges = before_and_after(chat)
        show_exchanges(exchanges)
        clock.lap("tuning to answer")
        clock.begin(4)
        answers = answer_tasks(out, chat, plan, exchanges)
        clock.lap("seven tasks")
    models.append(base)
    tokenizer = base.engine.tokenizer
    expected = predictions(base.engine.scorer, tokenizer, tokenizer.encode(material.unseen))
    return Report(
        title=f"A language model of {material.data.name}" if own else "From text to a language model",
        machine=this_machine(),
        cuts=cuts, growth=models[-2].growth, foundation=base.growth, prompts=material.prompts,
        curves=[model.curve for model in models if model.curve], results=[model.result for model in models],
        sentence=expected[:12], row=expected[:128], answers=answers, steps=clock.parts, context=CONTEXT,
        next_commands=_next_commands(material, out),
    )  # fmt: skip


def _next_commands(material: DemoText, out: Path) -> list[str]:
    folder, gpt, tokenizer = (quote(str(path)) for path in (material.data, out / "gpt", out / "tokenizer"))
    prompt = quote(one_line(material.prompts[-1]))
    return [
        *_task_commands(out),
        f"malmoi serve {quote(str(out))}",
        f"malmoi complete {gpt} {prompt} -n 3 --logprobs 3",
        f"malmoi data preview {folder} --tokenizer {tokenizer}",
        "malmoi demo --data YOUR_TEXTS --out my-demo",
        "malmoi pretrain gpt-micro --data YOUR_TEXTS --out my-model",
    ]


def _task_commands(out: Path) -> list[str]:
    """Where the tasks were compared."""
    if not (out / "tasks").exists():
        return []
    winner, rows = (quote(str(out / place)) for place in ("tasks/ner/winner", "examples/classification"))
    return [
        "malmoi chat malmoi-noru",
        f"malmoi chat {quote(str(out / 'chat'))}",
        f'malmoi predict {winner} "Suji Han opened a bakery on Plum Street on Friday."',
        f"malmoi compare classification --train {rows}/train.jsonl --out my-comparison",
    ]
