"""A trained text-to-image model in the files that diffusers loads."""

from pathlib import Path
from typing import Any

from pareto_amb.diffusion.text.denoiser import TextDenoiser
from pareto_amb.diffusion.text.parts import Part
from pareto_amb.pretrained import library

PIPELINE_FOLDER, LORA_FOLDER = "pipeline", "lora"


def export(denoiser: TextDenoiser, folder: Path) -> str | None:
    """Write a trained model below `folder`; return how diffusers loads it, None for one that is no pipeline.

    Low-rank additions go to LORA_FOLDER, as `load_lora_weights` reads them; anything else becomes a whole
    pipeline in PIPELINE_FOLDER. `denoiser` is left as it is.
    """
    model, diffusers = denoiser.model, library("diffusers")
    if model.vae is None:
        return None
    unet: Any = denoiser.unet
    if getattr(unet, "peft_config", None):
        state = library("peft.utils").get_peft_model_state_dict(unet)
        converted = library("diffusers.utils").convert_state_dict_to_diffusers(state)
        place = folder / LORA_FOLDER
        diffusers.StableDiffusionPipeline.save_lora_weights(
            str(place), unet_lora_layers={k: v.cpu().contiguous() for k, v in converted.items()}
        )
        return f"DiffusionPipeline.from_pretrained({model.origin!r}) and load_lora_weights({str(place)!r})"
    place = folder / PIPELINE_FOLDER
    schedule = model.schedule
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=schedule.steps,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule=schedule.betas,
        prediction_type=model.prediction,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    trained = Part(model.unet.kind, model.unet.config, {k: v.cpu() for k, v in unet.state_dict().items()})
    diffusers.StableDiffusionPipeline(
        unet=trained.build(),
        vae=model.vae.build(),
        text_encoder=model.text_encoder.build(),
        tokenizer=model.tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(str(place), safe_serialization=True)
    return f"DiffusionPipeline.from_pretrained({str(place)!r})"
