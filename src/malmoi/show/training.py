"""What a training run looks like on a terminal: the plan before it, a progress bar, losses and samples."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from malmoi.engine.engine import Engine
from malmoi.engine.request import Sampling
from malmoi.learn.pretrain import Pretraining
from malmoi.learn.size import derived
from malmoi.learn.trainer import StepReport
from malmoi.models.config import TransformerConfig
from malmoi.models.lora import trained_parameters
from malmoi.models.recurrent import computed_in
from malmoi.show.terminal import Words, console
from malmoi.util.units import counted, human_bytes, human_count, human_seconds

if TYPE_CHECKING:
    from malmoi.core.nouns import Finding
    from malmoi.learn.align import Alignment
    from malmoi.learn.finetune import Tuning
    from malmoi.learn.trainer import Trainer
    from malmoi.learn.trial import Trial
    from malmoi.learn.tuning import Material
    from malmoi.models.language import LanguageModel
    from malmoi.text.chat import ChatRow
    from malmoi.text.tokenizer import Tokenizer


def announce(run: Pretraining, words: Words = str) -> None:
    """Shape, parameters, tokens, expected time and memory, before the work starts."""
    spec, trainer, trial = run.trainer.spec, run.trainer, run.trial
    seen = spec.steps * spec.batch * trainer.context
    corpus = run.text.train.num_tokens
    mfu = trial.utilisation(run.model, trainer.context, trial.tokens_per_s)
    rows = {
        "model": f"{run.config.name}, {human_count(run.model.num_parameters())} parameters: {_shape(run)}",
        "text": f"{human_count(corpus)} tokens, {human_count(run.text.valid.num_tokens)} more for validation",
        "training": f"{counted(spec.steps, 'step')} of {counted(spec.batch, 'row')} of {trainer.context} = "
        f"{human_count(seen)} tokens ({seen / corpus:.2g} passes), {spec.optimizer}, "
        f"learning rate {spec.lr:g}, {spec.schedule}",
        "computing": f"{computed_in(run.model, spec.dtype)} on {run.model.device}, micro-batch "
        f"{counted(spec.micro_batch or 1, 'row')}, {trial.tokens_per_s:,.0f} tokens/s in a trial step, "
        f"MFU {mfu:.0%} of {human_count(trial.flops_per_s)}FLOP/s",
        "expected": f"{human_seconds(trial.seconds(trainer.context))}, {human_bytes(trial.memory_bytes)}",
    }
    for name, value in rows.items():
        console.print(f"[bold]{name:10}[/] {value}")
    if run.config.size:
        stands = f"{run.config.size} stands for {_derived(run)}; change any with {words('`set`')}"
        console.print(f"[bold]{'size':10}[/] {stands}")


def _shape(run: Pretraining) -> str:
    config = run.model.config
    heads = f", {counted(config.heads, 'head')}" if isinstance(config, TransformerConfig) else ""
    return f"{counted(config.layers, 'layer')}, {config.width} wide{heads}, vocabulary {config.vocab_size}"


def _derived(run: Pretraining) -> str:
    assert run.config.size is not None
    groups: dict[str, dict[str, Any]] = derived(run.config.size, str(run.config.model["family"]))
    return ", ".join(
        f"{group}.{key}={value}" for group, keys in groups.items() for key, value in keys.items()
    )


def announce_tuning(run: Tuning, words: Words = str) -> None:
    """What is learned, from what, and how long it will take, before the work starts."""
    told = sum(sum(row.trained) for row in run.material.train)
    data = (
        f"{counted(len(run.material.train), 'conversation')}, {human_count(told)} tokens of the assistant; "
        f"{len(run.material.valid):,} more for validation"
    )
    _announce(run, data, f"windows of {run.trainer.context}")
    _tell_left_out(run.material.findings, words)


def announce_alignment(run: Alignment, words: Words = str) -> None:
    """As `announce_tuning`, for pairs of answers."""
    train, valid = run.objective.train, run.objective.valid
    data = f"{counted(len(train), 'pair')} of answers, of {train.mean_tokens:,} tokens on average"
    _announce(run, f"{data}; {len(valid):,} more for validation", f"pairs, beta {run.trial.spec.beta:g}")
    _tell_left_out(run.findings, words)


def _announce(run: Tuning | Alignment, data: str, rows: str) -> None:
    spec, trainer, trial, config = run.trial.spec, run.trainer, run.trial, run.config
    trained = sum(parameter.numel() for parameter in trained_parameters(run.model).values())
    lora = f" (LoRA of rank {config.lora.rank})" if config.lora else ""
    shown = {
        "model": f"{config.model}, {human_count(trained)} of {human_count(run.model.num_parameters())} "
        f"parameters learn{lora}",
        "data": data,
        "training": f"{counted(spec.steps, 'step')} of {spec.batch} {rows}, "
        f"{spec.optimizer}, learning rate {spec.lr:g}, {spec.schedule}",
        "computing": f"{computed_in(run.model, spec.dtype)} on {run.model.device}, "
        f"micro-batch {spec.micro_batch}, {trial.tokens_per_s:,.0f} tokens/s in a trial step",
        "expected": f"{human_seconds(trial.seconds(trainer.context))}, {human_bytes(trial.memory_bytes)}",
    }
    for name, value in shown.items():
        console.print(f"[bold]{name:10}[/] {escape(value)}")


def _tell_left_out(findings: Sequence[Finding], words: Words) -> None:
    for found in findings[:5]:
        console.print(f"[yellow]left out[/] {escape(found.where)}: {escape(words(found.message))}")
    if (more := len(findings) - 5) > 0:
        console.print(f"and {more:,} more")


def show_rows(rows: Sequence[Sequence[tuple[str, bool]]], material: Material) -> None:
    """Conversations as the model sees them: what it learns to say in green, the rest dim."""
    for row in rows:
        text = Text()
        for piece, trained in row:
            text.append(piece.replace("\n", "\u23ce\n"), "bold green" if trained else "dim")
        console.print(text)
        console.print()
    told, seen = (sum(map(count, material.train)) for count in (_num_trained, _num_ids))
    console.print(
        f"{counted(len(material.train), 'conversation')} of {human_count(seen)} tokens, of which "
        f"{human_count(told)} (green) are learned; {len(material.findings):,} left out"
    )


def _num_trained(row: ChatRow) -> int:
    return sum(row.trained)


def _num_ids(row: ChatRow) -> int:
    return len(row.ids)


class Run(Protocol):
    """What a training run shows of itself."""

    @property
    def model(self) -> LanguageModel: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def trainer(self) -> Trainer[Any]: ...
    @property
    def trial(self) -> Trial[Any]: ...
    @property
    def prompt_ids(self) -> list[int]: ...


class Watch:
    """Shows the steps of a run: a bar on a terminal, and a line and a sample at every evaluation."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._tokens_per_s = 0.0
        self._bar = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=run.trainer.spec.steps, completed=run.trainer.step)

    def __enter__(self) -> Watch:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, report: StepReport) -> None:
        """One step."""
        trainer, trial = self._run.trainer, self._run.trial
        smooth = 0.9 if self._tokens_per_s else 0.0
        self._tokens_per_s = smooth * self._tokens_per_s + (1 - smooth) * report.tokens_per_s
        mfu = trial.utilisation(self._run.model, trainer.context, self._tokens_per_s)
        left_s = (
            (trainer.spec.steps - report.step) * trainer.spec.batch * trainer.context / self._tokens_per_s
        )
        speed = f"{self._tokens_per_s:,.0f} tokens/s  MFU {mfu:.0%}  {human_seconds(left_s)} left"
        self._bar.update(self._task, completed=report.step, description=f"loss {report.loss:.3f}  {speed}")
        if report.valid_loss is not None:
            console.print(f"step {report.step}/{trainer.spec.steps}  {_judged(report)}  {speed}")
            console.print(self._sample(), style="dim", markup=False)

    def _sample(self) -> str:
        """A short completion; it draws from its own generator, so that training is not disturbed."""
        run, prompt = self._run, self._run.prompt_ids
        run.model.eval()
        length = max(1, min(40, run.trainer.context // 2))
        sampling = Sampling(max_tokens=length, temperature=0.8, top_k=50, seed=0)
        text = Engine(run.model, run.tokenizer).generate([prompt], sampling)[0].text
        asked = "\n" if prompt[-1] in run.tokenizer.specials.ids else ""  # a reply begins with a new line
        return f"  | {run.tokenizer.decode(prompt)}{asked}{text}".replace("\n", "\n  | ")


def _judged(report: StepReport) -> str:
    """The loss, and what validation found."""
    bits = report.valid_bits_per_byte
    found = {"valid": report.valid_loss} | ({} if bits is None else {"bits/byte": bits})
    found |= {name[6:]: value for name, value in report.measures.items() if name.startswith("valid_")}
    return "  ".join([f"loss {report.loss:.3f}", *(f"{name} {value:.4f}" for name, value in found.items())])
