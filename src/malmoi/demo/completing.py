"""The third act begins: the foundation model that ships completes text, and goes on with the user's."""

from __future__ import annotations

from pathlib import Path

from malmoi.core.nouns import silent
from malmoi.demo.language_models import SHORT, Trained, finished, measured, pretraining, probed
from malmoi.demo.material import DemoText
from malmoi.engine import Engine
from malmoi.engine.loaded import Loaded
from malmoi.engine.score import bits_per_byte
from malmoi.hub.shipped import BASE, model_path, training_of
from malmoi.learn.run_config import load_run
from malmoi.show.terminal import console
from malmoi.util.units import human_count

FURTHER = ("train.batch=4", "train.context=512", "train.warmup_steps=10", "train.steps=100000")


def shipped_base(material: DemoText, pairs: int) -> Trained:
    """The foundation model as it ships, with how it completes the prompts.

    pairs: of sentences to be judged by, in each language; 0 where the text is the user's.
    """
    folder = model_path(BASE)
    model, made = Loaded(folder), training_of(folder)
    engine = Engine(model.model, model.tokenizer)
    texts = [found.text for found in engine.generate(list(material.prompts), SHORT)]
    bits, read = bits_per_byte(engine, material.valid), human_count(made["tokens"])
    result = measured(BASE, engine, bits, made["parameters"], made["seconds"], made["tokens"], folder)
    found = Trained(result, None, [(f"{read} tokens read before", texts)], engine)
    return probed(found, pairs) if pairs else found


def further(base: Trained, material: DemoText, out: Path, seconds: float) -> Trained:
    """The same after it has read the user's text, as out/foundation."""
    folder = out / "foundation"
    config = load_run(BASE, [*FURTHER, *material.reading, f"budget_seconds={seconds}"])
    run = pretraining(config, folder, material)
    engine, before = Engine(run.model, run.tokenizer), run.loop.evaluate()["bits_per_byte"]
    result = finished(f"{BASE}, further", run, silent, engine)
    bits, loop = result.metrics["bits_per_byte"].value, run.loop
    read = human_count(loop.step * loop.spec.batch * loop.context)
    console.print(f"{read} tokens further: {before:.3f} bits per byte become {bits:.3f}")
    texts = [found.text for found in engine.generate(list(material.prompts), SHORT)]
    return Trained(result, None, [*base.growth, (f"{read} of yours", texts)], engine)
