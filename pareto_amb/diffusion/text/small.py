"""A small text-to-image model of pixels, for CPUs: a U-Net and a text encoder, both trained from scratch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from pareto_amb.config import ScheduleConfig
from pareto_amb.diffusion.text.parts import Part, TextModel
from pareto_amb.errors import UserError
from pareto_amb.pretrained import library
from pareto_amb.printable import reason

MAX_TOKENS = 64
"""A caption is cut to as many tokens."""

VOCABULARY = 512
"""Tokens that captions are made of, at most."""

_FILL, _BEGIN, _END = "<fill>", "<begin>", "<end>"


@dataclass(frozen=True)
class SmallOptions:
    """What tells one small model from another."""

    channels: Annotated[
        tuple[Annotated[int, Field(ge=8, le=1024, multiple_of=8)], ...], Field(min_length=2, max_length=6)
    ] = (16, 32)
    text_width: Annotated[int, Field(ge=8, le=1024, multiple_of=8)] = 32
    text_layers: Annotated[int, Field(ge=1, le=24)] = 2


def small_model(
    captions: Sequence[str], channels: int, resolution: int, options: SmallOptions, schedule: ScheduleConfig
) -> TextModel:
    """A model of images of `resolution` pixels a side that reads captions like `captions`; it predicts v.

    Raises UserError where the images cannot be halved between its levels.
    """
    widths = options.channels
    halvings = len(widths) - 1
    if resolution % 2**halvings:
        raise UserError(
            f"network 'captioned' halves the image {halvings} times: resolution {resolution} must be "
            f"divisible by {2**halvings}"
        )
    tokenizer = read_tokenizer(*_learn_tokenizer(captions))
    attends = ["DownBlock2D", *["CrossAttnDownBlock2D"] * (len(widths) - 1)]
    unet: dict[str, Any] = {
        "sample_size": resolution,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": list(widths),
        "layers_per_block": 1,
        "down_block_types": attends,
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(attends)],
        "cross_attention_dim": options.text_width,
        "attention_head_dim": [max(width // 16, 1) for width in widths],
        "norm_num_groups": 8,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": options.text_width,
        "intermediate_size": 2 * options.text_width,
        "projection_dim": options.text_width,
        "num_hidden_layers": options.text_layers,
        "num_attention_heads": max(options.text_width // 16, 1),
        "max_position_embeddings": tokenizer.model_max_length,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    parts = Part("UNet2DConditionModel", unet), Part("CLIPTextModel", text)
    return TextModel(*parts, None, tokenizer, "v_prediction", schedule)


def describe(model: TextModel) -> dict[str, Any]:
    """All of a small model, as JSON has it; `described` makes it again."""
    return {
        "unet": dict(model.unet.config),
        "text_encoder": dict(model.text_encoder.config),
        "tokenizer": model.tokenizer.backend_tokenizer.to_str(),
        "max_tokens": model.tokenizer.model_max_length,
        "schedule": model.schedule.model_dump(mode="json"),
    }


def described(architecture: Mapping[str, Any]) -> TextModel:
    """The small model that `describe` described; KeyError, TypeError or ValueError for anything else."""
    return TextModel(
        Part("UNet2DConditionModel", architecture["unet"]),
        Part("CLIPTextModel", architecture["text_encoder"]),
        None,
        read_tokenizer(architecture["tokenizer"], architecture["max_tokens"]),
        "v_prediction",
        ScheduleConfig.model_validate(architecture["schedule"]),
    )


def _learn_tokenizer(captions: Sequence[str]) -> tuple[str, int]:
    """A tokenizer of words and parts learnt from captions, as JSON, and the longest caption's tokens."""
    tokenizers = library("tokenizers")
    learnt = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=_FILL))
    learnt.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[_FILL, _BEGIN, _END], show_progress=False, min_frequency=2
    )
    learnt.train_from_iterator(sorted(captions), trainer)
    learnt.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{_BEGIN} $A {_END}", special_tokens=[(_BEGIN, 1), (_END, 2)]
    )
    longest = max((len(found.ids) for found in learnt.encode_batch(list(captions))), default=2)
    return learnt.to_str(), min(longest, MAX_TOKENS)


def read_tokenizer(text: str, max_tokens: int) -> Any:
    """A tokenizer of transformers, from its JSON; ValueError or TypeError where it is none."""
    try:
        made = library("tokenizers").Tokenizer.from_str(text)
    except Exception as error:  # of no narrower type
        raise ValueError(f"the tokenizer cannot be read: {reason(error)}") from error
    return library("transformers").PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=max_tokens,
        pad_token=_FILL,
        bos_token=_BEGIN,
        eos_token=_END,
        unk_token=_FILL,
    )
