"""The second act: three small models read the same text for a minute."""

from __future__ import annotations

from pathlib import Path

from malmoi.demo.calibration import affordable_steps
from malmoi.demo.language_models import Trained, count, probed, train
from malmoi.demo.material import BATCH, CONTEXT, RECIPES, DemoText, write_world
from malmoi.demo.plan import Clock
from malmoi.show.terminal import console
from malmoi.util.units import human_count, human_seconds


def small_models(material: DemoText, out: Path, clock: Clock, *, own: bool) -> list[Trained]:
    """The n-gram model, the LSTM and the GPT."""
    plan = clock.plan
    steps = affordable_steps(material, plan.models_s)
    num_tokens = steps * BATCH * CONTEXT
    if not own:
        write_world(material, num_tokens)
    clock.lap("calibration and text")
    console.print(
        f"\nThree small models read the same {human_count(num_tokens)} tokens, "
        f"in {steps} steps where they learn by steps."
    )
    models = [count(material, out, steps)]
    clock.lap("n-gram")
    ngram, seconds = models[0].result, human_seconds(models[0].result.costs["train_seconds"])
    bits = ngram.metrics["bits_per_byte"].value
    console.print(f"{ngram.name}: {bits:.3f} bits per byte, counted in {seconds}")
    for name in RECIPES:
        models.append(train(name, material, out, steps, plan.models_s))
        clock.lap(name)
    if not own:
        models = [probed(model, plan.pairs) for model in models]
        clock.lap("grammar and logic")
    return models
