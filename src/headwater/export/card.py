"""The model card: what an exported model is, what it learnt from, how good it is, and what was verified of its files."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML

from headwater.core.units import format_bytes, format_count, format_seconds
from headwater.model.config import Export
from headwater.model.shape import ModelConfig
from headwater.report import card as data
from headwater.report.blocks import decimal, plural, share, significant, whole, words
from headwater.report.evidence import Evidence
from headwater.report.sections.cost import energy_kwh, write_energy

Json = Mapping[str, Any]

_LANGUAGES_NAMED = 0.001  # share of the documents that a language must have to stand in the head of the card
_INTENDED = (
    "To continue text of the kind that it was trained on, to be trained further, and to study how a base model comes about. "
    "It is a base model: it continues text and follows no instructions. It was not aligned, and no filter stands behind it: "
    "what it writes can be false, offensive, or taken from its training text word for word. Do not use it where people rely "
    "on what it says, or to decide about people."
)


def model_card(settings: Export, evidence: Evidence, config: ModelConfig, facts: Json, files: Sequence[str]) -> str:
    """Describe an exported model in the form that the Hugging Face hub reads.

    Args:
        settings: how it was exported.
        evidence: what the stages of its run left behind.
        config: its shape.
        facts: what the export found: format, dtype, step, proof.
        files: names of the exported files.
    """
    title = settings.title or "A base model"
    parts = [
        "---\n" + _head(settings, evidence) + "---",
        f"# {data.cell(title)}",
        settings.about,
        _summary(evidence, config, facts),
        "## How to use it",
        _usage(settings, files),
        "## Intended use and limits",
        settings.intended_use or _INTENDED,
        "\n".join(f"- {limit}" for limit in _limits(settings, evidence, config)),
        "## Model",
        _table(_shape(evidence, config, facts)),
        "## Training data",
        _training_data(evidence),
        "## Personal data",
        data.personal_data(evidence) if evidence.document_stages else "There is no record of the documents.",
        "## Training",
        _table(_training(evidence)) or "It was not trained: these are the weights that the run began with.",
        "## Evaluation",
        "\n\n".join(_evaluation(evidence, facts)) or "It was not evaluated.",
        *_samples(evidence),
        "## Compute and energy",
        "\n".join(f"- {line}" for line in _compute(evidence, facts)),
        "## Verification of these files",
        "\n\n".join(_verification(facts)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(settings: Export, evidence: Evidence) -> str:
    """The YAML head that the hub indexes. Source: Hugging Face's specification of model cards."""
    languages = data.sum_of(_sources(evidence), "languages")
    total = sum(languages.values())
    named = [code for code, count in languages.most_common() if code != "unknown" and count >= _LANGUAGES_NAMED * total]
    library = {"huggingface": "transformers", "gguf": "gguf", "safetensors": "safetensors"}[settings.format]
    head: dict[str, Any] = {"license": settings.licence or "other"}
    if not settings.licence:
        head["license_name"] = "not-chosen-yet"
    if named:
        head["language"] = named
    head |= {"library_name": library, "pipeline_tag": "text-generation"}
    head["tags"] = ["headwater", "base-model", *(["gguf"] if settings.format == "gguf" else [])]
    if settings.base_model:
        head["base_model"] = settings.base_model
    stream = io.StringIO()
    YAML().dump(head, stream)
    return stream.getvalue()


def _sources(evidence: Evidence) -> dict[str, Any]:
    return evidence.counts(evidence.curated)["sources"] if evidence.document_stages else {}


def _summary(evidence: Evidence, config: ModelConfig, facts: Json) -> str:
    """The model in a few sentences."""
    family = facts["architecture"].removesuffix("ForCausalLM")
    text = f"A {family} of {whole(config.parameters())} parameters, {_began(evidence)}"
    if tokens := evidence.counts("train").get("tokens"):
        per = tokens / config.parameters()
        text += (
            f", and trained on {whole(_tokens_seen(evidence, facts))} tokens ({significant(per)} for each parameter)"
        )
    kinds = {"huggingface": "a Hugging Face folder", "gguf": "a GGUF file", "safetensors": "plain safetensors"}
    return f"{text}. This is it as {kinds[facts['format']]} in {facts['dtype']}, made by Headwater."


def _tokens_seen(evidence: Evidence, facts: Json) -> int:
    """Tokens up to the exported step."""
    counts = evidence.counts("train")
    return round(counts["tokens"] * facts["step"] / counts["steps"]) if counts.get("steps") else 0


def _began(evidence: Evidence) -> str:
    """How its weights began."""
    settings = evidence.settings("initialize")
    path = settings.get("path") or (settings.get("source") or {}).get("path") or ""
    name = data.cell(str(path).rstrip("/").rpartition("/")[2])
    types = evidence.counts("initialize").get("tensor_types") or {}
    rounded = f" (its tensors were {', '.join(f'{count} {kind}' for kind, count in types.items())})" if types else ""
    return {
        "random": "begun with random weights",
        "huggingface": f"begun with the weights of {name}",
        "checkpoint": f"begun with the weights of the checkpoint {name}",
        "gguf": f"begun with the weights of {name}{rounded}",
        "grown": f"grown from the layers of {name}{rounded}",
    }.get(settings.get("use", ""), "of unknown origin")


def _usage(settings: Export, files: Sequence[str]) -> str:
    if settings.format == "huggingface":
        code = 'from transformers import pipeline\n\nwrite = pipeline("text-generation", model="PATH OF THIS FOLDER")\n'
        return f'```python\n{code}print(write("The ")[0]["generated_text"])\n```'
    if settings.format == "gguf":
        name = next(file for file in files if file.endswith(".gguf"))
        return f'```console\n$ llama-completion -m {name} -p "The " -n 64\n```'
    line = "initialize: {use: checkpoint, path: PATH OF THIS FOLDER}"
    return f"In a recipe of Headwater:\n\n```yaml\n{line}\n```\n\nOther readers find shape and names in `model.json`."


def _limits(settings: Export, evidence: Evidence, config: ModelConfig) -> Iterator[str]:
    """What a user must know, as far as the records tell."""
    if not settings.licence:
        yield "Nobody has chosen a licence for these weights yet (`export.licence`)."
    if evidence.settings("initialize").get("use", "random") != "random" and not settings.base_model:
        yield "It goes back to other weights, whose licence binds it, and whose training data are not described here."
    yield f"It attends to at most {whole(config.context_length)} tokens, and was trained on rows of {_row_length(evidence)}."
    sources = _sources(evidence)
    total = sum(counts["documents_out"] for counts in sources.values())
    if sources:
        yield from data.limits(evidence, sources, total)


def _row_length(evidence: Evidence) -> str:
    length = evidence.settings("train").get("sequence_length")
    return whole(length) if length else "unknown length"


def _shape(evidence: Evidence, config: ModelConfig, facts: Json) -> Iterator[tuple[str, str]]:
    yield "architecture", facts["architecture"]
    yield "parameters", whole(config.parameters())
    yield "layers, hidden size, feed-forward size", f"{config.num_layers}, {config.hidden_size}, {config.ffn_size}"
    yield "heads, key and value heads, head size", f"{config.num_heads}, {config.num_kv_heads}, {config.head_size}"
    yield "context", f"{whole(config.context_length)} tokens"
    yield "embedding and output head", "one matrix" if config.tie_embeddings else "two matrices"
    yield "weights", f"{facts['dtype']}, {_began(evidence)}"
    tokenizer = evidence.tokens
    if tokenizer:
        yield "vocabulary", f"{whole(tokenizer['vocab_size'])} tokens; the model predicts {whole(config.token_types)}"


def _training_data(evidence: Evidence) -> str:
    if not evidence.document_stages:
        return "There is no record of the documents."
    parts = [data.source_table(_sources(evidence))]
    if mixture := evidence.counts("train").get("mixture"):
        lines = ["| source | share of training | tokens read | times seen |", "|---|---:|---:|---:|"]
        lines += [
            f"| {data.cell(name)} | {share(of['weight'], 1)} | {whole(of['requested_tokens'])} | {decimal(of['epochs'], 2)} |"
            for name, of in mixture.items()
        ]
        parts.append("\n".join(lines))
    held = evidence.counts("split").get("held_out", {}).get("documents")
    if held:
        parts.append(f"{plural(held, 'document')} were held out from training.")
    parts.append("How the documents were chosen and cleaned is in `data-card.md` and `report.html` of the run.")
    return "\n\n".join(parts)


def _training(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """What was set, and what came of it."""
    settings, counts = evidence.settings("train"), evidence.counts("train")
    if not counts:
        return
    yield "steps", whole(counts["steps"])
    yield "tokens of a step", f"{whole(settings['batch_tokens'])}, in rows of {whole(settings['sequence_length'])}"
    for name in ("optimizer", "schedule"):
        values = {key: value for key, value in settings[name].items() if key != "use" and value is not None}
        yield name, f"{settings[name]['use']}: " + ", ".join(f"{words(key)} {value}" for key, value in values.items())
    yield "largest norm of the gradient", significant(settings["clip_norm"])
    yield "arithmetic", f"{counts['precision']} on {counts['device']}; weights and optimizer in fp32"
    yield "seed", str(settings["seed"])
    yield (
        "loss at the first step and at the end",
        f"{decimal(counts['initial_loss'])}, {decimal(counts['final_loss'])} nats per token",
    )


def _evaluation(evidence: Evidence, facts: Json) -> Iterator[str]:
    found = evidence.bits_per_byte
    last = evidence.counts("train").get("steps")
    if last not in (None, facts["step"]) and (found or evidence.validations):
        yield f"Of the end of training, step {whole(last)}; the weights here are those after step {whole(facts['step'])}."
    if found:
        sources = list(next(iter(found.values())))
        lines = [f"| source | {' | '.join(words(model) for model in found)} |", "|---|" + "---:|" * len(found)]
        for source in sources:
            cells = [_plus_minus(values.get(source)) for values in found.values()]
            lines.append(f"| {data.cell(source)} | {' | '.join(cells)} |")
        yield (
            "Bits per byte of held-out documents, fewer is better, ± one standard error. `untrained` is where training began; "
            "others are general compressors."
        )
        yield "\n".join(lines)
    elif evidence.validations:
        last = evidence.validations[-1]["validation_bits_per_byte"]
        scores = ", ".join(f"{data.cell(name)} {decimal(value)}" for name, value in last.items())
        yield f"Bits per byte of held-out text at the last validation: {scores}."
    if evidence.validations or found:
        benchmarks = "decontaminate" in evidence.manifests
        yield "The training documents were " + ("" if benchmarks else "not ") + "compared with benchmarks."


def _samples(evidence: Evidence, most: int = 2) -> Iterator[str]:
    """What it wrote after some prompts."""
    for sample in [each for each in evidence.generations if each.get("trained")][:most]:
        text = f"{sample['prompt']}[...]{sample['trained']}".replace("`" * 3, "'" * 3)
        temperature = f", temperature {sample['temperature']}" if sample.get("temperature") is not None else ""
        yield f"What it wrote from [...] on{temperature}:\n\n```text\n{text.strip()}\n```"


def _plus_minus(score: Json | None) -> str:
    if not score:
        return "-"
    error = score.get("standard_error")
    return decimal(score["value"]) + (f" ± {decimal(error)}" if error is not None else "")


def _compute(evidence: Evidence, facts: Json) -> Iterator[str]:
    counts = evidence.counts("train")
    if counts:
        tokens = _tokens_seen(evidence, facts)
        flops = counts["flops_per_token"] * tokens
        yield (
            f"Training: {format_count(tokens)} tokens x {format_count(counts['flops_per_token'])} FLOPs = {flops:.3g} FLOPs "
            f"({counts['flops_convention']})."
        )
        yield f"Time: {format_seconds(evidence.seconds['train'])} to train, {format_seconds(sum(evidence.seconds.values()))} for all stages before."
        hardware = evidence.manifests["train"]["hardware"]
        memory = format_bytes(hardware["memory_bytes"])
        yield f"On: {data.cell(hardware['processor'])}, {plural(hardware['cores'], 'core')}, {memory} of memory{_gpu(counts)}."
    energy = energy_kwh(evidence, sum(evidence.seconds.values()))
    carbon = energy * evidence.machine.carbon_grams_per_kwh
    yield (
        f"Electricity: about {write_energy(energy)}, {significant(carbon)} g of CO2 equivalent: an estimate from the time and the "
        "power of the machine, not a measurement."
    )
    if evidence.settings("initialize").get("use", "random") != "random":
        yield "What the weights cost that it began with is not counted here."


def _gpu(counts: Json) -> str:
    return f"; tensors on {data.cell(counts['device'])}" if counts["device"] != "cpu" else ""


def _verification(facts: Json) -> Iterator[str]:
    """What was verified, and what was not."""
    proof = facts["proof"]
    yield (
        f"The files were opened again and their logits compared at {whole(proof['tokens'])} tokens of {plural(proof['texts'], 'text')} "
        f"({proof['compared_on']}). Differences are in standard deviations of the logits, which is {decimal(proof['deviation'], 2)} nats."
    )
    lines = [
        "| software | largest difference | allowed | mean | same likeliest token | same tokens of the text |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for check in proof["checks"]:
        tokens = "yes" if check["tokens_equal"] else "not compared"
        own = check["runtime"] == "the independent reader"
        name = f"independent reader (NumPy {check['version']})" if own else f"{check['runtime']} {check['version']}"
        lines.append(
            f"| {name} | {check['largest']:.1e} | {check['limit']:g} | "
            f"{check['mean']:.1e} | {share(check['same_choice'], 1)} | {tokens} |"
        )
    yield "\n".join(lines)
    yield "Headwater itself reads the files back too: the same shape, and the same tokens of these texts."
    if proof["not_checked"]:
        yield (
            "Not verified: "
            + "; ".join(f"with {each['runtime']}, {each['why']}" for each in proof["not_checked"])
            + "."
        )
    if folded := proof["folded"]:
        yield (
            f"The model was trained with {', '.join(map(words, folded['tricks']))}, which are folded into these plain weights. "
            f"Before and after, largest difference: {folded['largest_fp64']:.1e} in fp64, {folded['largest_fp32']:.1e} in fp32."
        )
    rounding = proof["rounding"]
    if facts["dtype"] == "float32" and not folded:
        yield "The weights are those that were trained, bit for bit."
    elif facts["dtype"] != "float32":
        yield (
            f"Written as {facts['dtype']}, the weights are rounded. Beside the model that was trained: mean divergence of the predictions "
            f"{significant(rounding['divergence'])} nats per token, the same likeliest token at {share(rounding['same_choice'], 1)}, "
            f"loss on these texts {decimal(rounding['loss_before'], 4)} before and {decimal(rounding['loss_after'], 4)} after."
        )


def _table(rows: Iterator[tuple[str, str]]) -> str:
    lines = [f"| {name} | {data.cell(value)} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""
