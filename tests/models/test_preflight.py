"""Preflight: the estimate follows the model's real sizes; what cannot run is refused, with settings that would fit."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from odin_slm.config.parameters import LoraParams, TrainingParams
from odin_slm.core.errors import BackendError, BaseModelError, DeviceMemoryError
from odin_slm.models import backends, memory, preflight
from odin_slm.models.backends import with_adapter
from odin_slm.models.base_model import BaseModel, load_model
from odin_slm.models.memory import Job
from odin_slm.models.preflight import Machine, check

LLAMA_8B = {
    **{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072},
    **{"tie_word_embeddings": False},
}
V15 = TrainingParams(
    **{"max_seq_length": 1024, "batch_size": 2, "gradient_accumulation_steps": 4, "load_in_4bit": True},
    **{"gradient_checkpointing": True, "dtype": "bfloat16", "precision": "bf16"},
)


def gpu(gib: float) -> Machine:
    return Machine("cuda", "a GPU", round(gib * memory.GIB), round(gib * memory.GIB))


def of_config(folder: Path, name: str = "unsloth/Meta-Llama-3.1-8B-bnb-4bit", **config: object) -> BaseModel:
    """A base that consists of its configuration alone."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**LLAMA_8B, **config}))
    return BaseModel(name, folder)


def test_a_tracker_that_is_not_installed_is_named(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = BaseModel("tiny", tiny_base)
    assert TrainingParams().report_to == (), "off by default"
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"training\.report_to: the package wandb .* pip install wandb"):
        check(base, TrainingParams(report_to=("wandb",)))
    monkeypatch.setattr(preflight, "find_spec", lambda name: name)
    assert check(base, TrainingParams(report_to=("wandb",)))


def test_the_shape_is_the_loaded_models(tiny_base: Path) -> None:
    base = BaseModel("tiny", tiny_base)
    config = preflight.read_config(base)
    shape, modules = preflight.shape_of(config, base)
    model = load_model(base)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert set(modules) == {name for name, _ in model.named_modules()}
    for lora in (LoraParams(r=4), LoraParams(r=3, target_modules=("q_proj", "down_proj"))):
        params = TrainingParams(lora=lora)
        adapted = with_adapter("transformers", base, params)
        trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        assert check(base, params).trainable == trained


def test_the_activations_are_those_that_autograd_keeps(tiny_base: Path) -> None:
    base = BaseModel("tiny", tiny_base)
    params = TrainingParams(batch_size=4, max_seq_length=256, lora=LoraParams(r=4))
    model = with_adapter("transformers", base, params).train()
    ids = torch.randint(10, 500, (4, 256))
    mask = torch.ones_like(ids)
    mask[0, -1] = 0
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.get_base_model().get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)
    measured = sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in weights)
    shape, _ = preflight.shape_of(preflight.read_config(base), base)
    job = Job(batch_size=4, accumulation=1, length=256, rank=4, targets=LoraParams().target_modules)
    assert memory.estimate(shape, job).activations == pytest.approx(measured, rel=0.05)


def test_the_estimate_of_llama_8b_in_4_bit_is_the_known_size(tmp_path: Path) -> None:
    found = check(of_config(tmp_path), V15, gpu(16))
    assert found.parameters == 8_030_261_248
    assert found.trainable == 83_886_080
    assert 5.0 < found.estimate.weights / memory.GIB < 6.0
    assert 6.5 < found.estimate.total / memory.GIB < 10.0
    assert found.licence.startswith("llama3.1;")
    assert found.report()["total"] == found.estimate.total


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "fp16"}, r"training\.precision=fp16: a CPU trains in float32 or bfloat16"),
        ({"optimizer": "lion"}, r"training\.optimizer=lion: transformers has no optimizer of this name.*lion_32bit"),
        ({"optimizer": "adamw"}, r"training\.optimizer=adamw.*adamw_torch"),
        ({"optimizer": "galore_adamw"}, r"training\.optimizer=galore_adamw: this optimizer projects the gradients"),
        ({"attention": "flash_attention_2"}, r"FlashAttention needs a CUDA device.*Set it to auto or sdpa"),
        ({"lora": {"target_modules": ["q_proj", "lm_head"]}}, r"target_modules: the output head takes no adapter"),
    ],
)
def test_what_a_training_would_refuse_after_its_data_is_refused_before(
    settings: dict[str, Any], said: str, tiny_base: Path
) -> None:
    with pytest.raises(BackendError, match=said):
        check(BaseModel("tiny", tiny_base), TrainingParams(**settings))


def test_several_processes_on_a_cpu_share_its_memory_and_take_the_step_of_trl(tiny_base: Path) -> None:
    base = BaseModel("tiny", tiny_base)
    alone = check(base, TrainingParams())
    several = check(base, TrainingParams(launcher="accelerate", num_processes=4))
    assert (alone.job.workers > 0, several.job.workers) == (True, 0)
    assert several.estimate.total > alone.estimate.total
    assert several.machine.total == alone.machine.total // 4
    assert several.machine.name == f"{alone.machine.name}, shared by 4 processes"


def test_a_refusal_names_two_settings_that_fit(tmp_path: Path) -> None:
    base = of_config(tmp_path)
    greedy = V15.model_copy(update={"load_in_4bit": False, "gradient_checkpointing": False, "batch_size": 16})
    with pytest.raises(DeviceMemoryError, match=r"needs about .* GiB, but only 22.1 GiB of a GPU") as caught:
        check(base, greedy, gpu(24))
    ways = caught.value.fix.removeprefix("These settings would fit: ").split(" or ")
    assert len(ways) == 2
    for way in ways:
        changes = [part.split("=") for part in way.split(" (")[0].replace("training.", "").split(",")]
        update = {name: json.loads(value) for name, value in changes}
        assert check(base, greedy.model_copy(update=update), gpu(24)).estimate.total <= gpu(24).free
    with pytest.raises(DeviceMemoryError, match="choose a smaller base"):
        check(base, greedy, gpu(4))


def test_auto_takes_the_largest_batch_that_fits_and_keeps_the_step(tmp_path: Path) -> None:
    base = of_config(tmp_path)
    auto = V15.model_copy(update={"batch_size": "auto", "gradient_checkpointing": False})
    jobs = [check(base, auto, gpu(gib)).job for gib in (24, 40, 80)]
    assert [job.batch_size * job.accumulation for job in jobs] == [64, 64, 64]
    sizes = [job.batch_size for job in jobs]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_what_the_configuration_rules_out_is_refused(tmp_path: Path, tiny_base: Path) -> None:
    tiny = BaseModel("tiny", tiny_base)
    with pytest.raises(BackendError, match=r"reads at most 1024 tokens.*Set it to 1024"):
        check(tiny, TrainingParams(max_seq_length=2000))
    with pytest.raises(BackendError, match=r"no module c_attn.*down_proj.*all-linear"):
        check(tiny, TrainingParams(lora=LoraParams(target_modules=("c_attn",))))
    with pytest.raises(BaseModelError, match="not a causal language model"):
        check(of_config(tmp_path / "t5", model_type="t5"), TrainingParams())
    with pytest.raises(BaseModelError, match="configuration cannot be read"):
        check(of_config(tmp_path / "odd", num_attention_heads=0), TrainingParams())


CPU = Machine("cpu", "cores", 2**40, 2**40)


@pytest.mark.parametrize("stored", [False, True], ids=["asked for", "as the base is stored"])
def test_4_bit_on_a_cpu_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    base = of_config(tmp_path, **({"quantization_config": quantised} if stored else {}))
    params = V15.model_copy(update={"load_in_4bit": not stored})
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(BackendError, match=r"bitsandbytes is not installed.*pip install -e '\.\[nf4\]'"):
            check(base, params, CPU)
    layers = ModuleType("bitsandbytes.nn")
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", layers)
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(BackendError, match=r"cannot train a 4-bit layer of 4096 x 1024 weights here \(cannot import"):
        check(base, params, CPU)
    monkeypatch.setattr(layers, "Linear4bit", AsTheLibraryFails, raising=False)
    with pytest.raises(BackendError, match=r"cannot train a 4-bit layer.*\(Method 'cdequantize' not available\)"):
        check(base, params, CPU)


class AsTheLibraryFails(torch.nn.Linear):
    """What a layer of bitsandbytes does where its library cannot be loaded: nothing fails before it computes."""

    def __init__(self, inputs: int, outputs: int, bias: bool, **_: object) -> None:
        super().__init__(inputs, outputs, bias)

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("Method 'cdequantize' not available")


def test_4_bit_on_a_cpu_counts_the_weights_in_nf4_and_one_layer_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = of_config(tmp_path)
    monkeypatch.setattr(backends, "four_bit_error", lambda *_: None)
    found = check(base, V15, CPU)
    inside = 32 * (4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14336)
    assert found.estimate.weights == pytest.approx(inside * (0.5 + 1 / 64) + (found.parameters - inside) * 2, rel=0.001)
    assert found.estimate.runtime == 8 * memory.MIB + 4096 * 14336 * 2
    assert found.job.workers == 0
    whole = V15.model_copy(update={"load_in_4bit": False})
    little = Machine("cpu", "cores", 20 * memory.GIB, 20 * memory.GIB)
    with pytest.raises(DeviceMemoryError, match=r"training.load_in_4bit=true"):
        check(base, whole, little)
    monkeypatch.setattr(backends, "four_bit_error", lambda *_: BackendError("no", where="here", fix="none"))
    with pytest.raises(DeviceMemoryError) as caught:
        check(base, whole, little)
    assert "load_in_4bit" not in caught.value.fix


def test_a_containers_free_memory_is_its_limit_minus_its_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "CGROUP", tmp_path)
    whole = preflight.this_machine().total
    limit, used = 2**28, 2**28 - 2**22
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    assert (preflight.this_machine().total, preflight.this_machine().free) == (limit, 2**22)
    # most of the memory in use may be cached files, which the kernel frees on demand
    (tmp_path / "memory.stat").write_text(
        f"anon {2**24}\nfile {2**27 + 2**20}\ninactive_file {2**27}\nactive_file {2**20}\n"
    )
    assert preflight.this_machine().free == 2**22 + 2**27
    (tmp_path / "memory.max").write_text("max\n")
    assert preflight.this_machine().total == whole


@pytest.mark.parametrize("targets", ["all-linear", ("c_attn",), ("c_proj",)])
def test_the_linear_layers_of_gpt2_count(tmp_path: Path, targets: Any) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2LMHeadModel

    config = AutoConfig.for_model("gpt2", hidden_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=64)
    config.save_pretrained(tmp_path)
    params = TrainingParams(batch_size=2, max_seq_length=256, lora=LoraParams(r=4, target_modules=targets))
    found = check(BaseModel("gpt2", tmp_path), params, gpu(16))
    with torch.device("meta"):
        adapted = get_peft_model(GPT2LMHeadModel(config), LoraConfig(r=4, target_modules=targets, fan_in_fan_out=True))
    assert found.trainable == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert found.estimate.optimizer == found.trainable * 8
    plain = replace(found.job, targets=("none of them",))
    shape, _ = preflight.shape_of(config, BaseModel("gpt2", tmp_path))
    assert found.estimate.activations > memory.estimate(shape, plain).activations
    assert {layer.outputs for layer in shape.linear if layer.name == "c_attn"} == {96}


@pytest.mark.parametrize(
    ("name", "values", "feed_forward"),
    [
        ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}, 48),
        ("gpt2", {"n_inner": 48}, 48),
        ("gpt2", {}, 128),
        ("gpt_neo", {"attention_types": [[["global"], 1]]}, 128),
        ("gptj", {"rotary_dim": 4}, 128),
        ("codegen", {"rotary_dim": 4}, 128),
        ("falcon", {"ffn_hidden_size": 48}, 48),
        ("bloom", {}, 128),
        ("mpt", {"expansion_ratio": 2}, 64),
        ("mamba", {}, 64),
        ("mamba2", {"num_heads": 4, "head_dim": 16}, 128),
    ],
)
def test_architectures_of_another_kind_are_refused_by_their_modules(
    tmp_path: Path, name: str, values: dict[str, Any], feed_forward: int
) -> None:
    heads = {} if "mamba" in name else {"num_attention_heads": 2}
    small = {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 64, **heads}
    AutoConfig.for_model(name, **small, **values).save_pretrained(tmp_path)
    base = BaseModel(name, tmp_path)
    shape, _ = preflight.shape_of(preflight.read_config(base), base)
    assert (shape.layers, shape.hidden, shape.feed_forward) == (1, 32, feed_forward)
    with pytest.raises(BackendError, match=r"has no module .*gate_proj.*Choose from its linear layers"):
        check(base, TrainingParams(), gpu(16))


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("unsloth/Meta-Llama-3.1-8B-bnb-4bit", "llama3.1; a release must be named Llama"),
        ("someone/llama-tune", "unknown: "),
        ("owner/name", "apache-2.0, according to its card"),
    ],
)
def test_the_licence_is_stated_as_far_as_it_is_known(tiny_base: Path, name: str, licence: str) -> None:
    assert preflight.licence_of(BaseModel(name, tiny_base)).startswith(licence)
    assert preflight.licence_of(BaseModel("owner/name")).startswith("unknown; read the card")


def test_the_table_shows_every_part(tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preflight.show(check(BaseModel("tiny", tiny_base), TrainingParams()).report())
    shown = capsys.readouterr().err
    for word in ("weights", "adapter", "gradients", "optimizer", "activations", "workspace", "peak", "llama"):
        assert word in shown


@given(
    batch=st.integers(1, 64),
    length=st.integers(64, 4096),
    rank=st.integers(1, 128),
    cuda=st.booleans(),
    budget=st.integers(2**20, 2**36),
)
def test_smaller_settings_need_less_and_every_alternative_fits(
    batch: int, length: int, rank: int, cuda: bool, budget: int
) -> None:
    shape = memory.Shape(
        parameters=30_000_000,
        linear=(memory.Linear("q_proj", 256, 256, 6), memory.Linear("down_proj", 704, 256, 6)),
        **{"layers": 6, "hidden": 256, "heads": 4, "query": 256, "key": 256, "feed_forward": 704, "vocabulary": 5120},
    )
    job = Job(batch_size=batch, accumulation=2, length=length, rank=rank, device="cuda" if cuda else "cpu")
    total = memory.estimate(shape, job).total
    assert memory.estimate(shape, replace(job, batch_size=batch + 1)).total > total
    assert memory.estimate(shape, replace(job, rank=rank + 1)).total > total
    if batch * length > 4096:
        assert memory.estimate(shape, replace(job, checkpointing=True)).total < total
    smaller = memory.largest_batch(shape, job, budget)
    assert smaller.batch_size * smaller.accumulation == batch * 2
    for way in memory.alternatives(shape, job, budget):
        assert way.estimate.total <= budget
