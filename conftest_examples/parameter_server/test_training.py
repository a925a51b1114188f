"""Softmax regression by asynchronous SGD, as parameter servers were made for it.

The weights live on one ps, the bias on the other. Two workers, each with its own half of the
data, read them, work out a gradient and send it back, and neither waits for the other.
"""

from __future__ import annotations

from concurrent.futures import wait
from typing import Any, NamedTuple

import numpy as np
import pytest
from rich.progress import Progress

from pytest_localcluster import (
    LocalCluster,
    Session,
    Variable,
    current_task,
    device,
    group,
    placeholder,
    variables_initializer,
)

STEPS, BATCH, RATE = 400, 32, 0.5


# docs: model
class Model(NamedTuple):
    images: Any
    labels: Any
    predictions: Any
    train: Any


def softmax_regression(worker: int) -> tuple[Model, list[Variable]]:
    """Describe the model, computed on one worker; the state is shared by name."""
    with device("/job:ps/task:0"):
        weights = Variable(np.zeros((64, 10)), name="weights")
    with device("/job:ps/task:1"):
        bias = Variable(np.zeros(10), name="bias")
        steps = Variable(0, name=f"steps/{worker}")
    images = placeholder(np.float64, (None, 64))
    labels = placeholder(np.int64, (None,))
    with device(f"/job:worker/task:{worker}"):
        logits = images @ weights + bias
        scores = np.exp(logits - np.max(logits, axis=1, keepdims=True))
        one_hot = np.equal(labels[:, np.newaxis], np.arange(10))
        error = scores / np.sum(scores, axis=1, keepdims=True) - one_hot
        train = group(
            weights.assign_sub(RATE / BATCH * (images.T @ error)),
            bias.assign_sub(RATE / BATCH * np.sum(error, axis=0)),
            steps.assign_add(1),
        )
        predictions = np.argmax(logits, axis=1)
    return Model(images, labels, predictions, train), [weights, bias, steps]


# docs: train
def train(images: Any, labels: Any) -> None:
    """Runs in a worker's own process, against its own target."""
    context = current_task()
    model, _ = softmax_regression(context.task.index)
    random = np.random.default_rng(context.task.index)
    with Session(context.target) as session:
        for _ in range(STEPS):
            rows = random.integers(len(labels), size=BATCH)
            session.run(model.train, {model.images: images[rows], model.labels: labels[rows]})


# docs: test
@pytest.mark.cluster(workers=2, ps=2)
def test_two_workers_learn_to_read_digits(
    local_cluster: LocalCluster, digits: tuple[Any, ...], progress: Progress, report: Any
) -> None:
    workers, ps = local_cluster
    images, labels, new_images, new_labels = digits
    model, (weights, bias, steps) = softmax_regression(worker=0)
    _, (*_, other_steps) = softmax_regression(worker=1)
    counts = [steps, other_steps]

    with local_cluster.session(task="/job:worker/task:0") as session:
        session.run(variables_initializer([weights, bias, *counts]))
        bars = [progress.add_task(f"worker {i}", total=STEPS) for i in range(len(workers))]
        runs = [w.submit(train, images[i::2], labels[i::2]) for i, w in enumerate(workers)]
        done_by_each = [count.read() for count in counts]
        pending = set(runs)
        while pending:
            _, pending = wait(runs, timeout=0.05)
            for bar, done in zip(bars, session.run(done_by_each), strict=True):
                progress.update(bar, completed=int(done))
        for run in runs:
            run.result()
        predictions = session.run(model.predictions, {model.images: new_images})

    accuracy = np.mean(predictions == new_labels)
    seconds = max(progress.tasks[bar].finished_time or 0 for bar in bars)
    report.cluster = local_cluster
    report.results["held-out accuracy"] = f"{accuracy:.3f}"
    report.results["speed"] = f"{len(workers) * STEPS / seconds:.0f} steps/s"

    assert ps[0].variables().keys() == {"weights"}
    assert ps[1].variables().keys() == {"bias", "steps/0", "steps/1"}
    assert accuracy >= 0.93
