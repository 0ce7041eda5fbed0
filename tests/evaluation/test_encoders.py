import math
import pickle
import subprocess
import sys
import urllib.request
from pathlib import Path

import cloudpickle
import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from pareto_amb import weights
from pareto_amb.errors import UserError
from pareto_amb.evaluation import encoders
from pareto_amb.evaluation.encoders import load_encoder

VITS = "vit_small_patch14_dinov2.lvd142m"


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no\nroute to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("PARETO_AMB_WEIGHTS", str(tmp_path))


@pytest.fixture(scope="module")
def vits_file(tmp_path_factory) -> Path:
    """A DINOv2 ViT-S/14 with random weights, in timm's naming."""
    torch.manual_seed(0)
    model = timm.create_model(VITS, num_classes=0)
    for name, tensor in model.state_dict().items():
        if name.endswith("gamma"):
            tensor.fill_(0.5)  # the published models' layers do something
        if name == "pos_embed":
            tensor.normal_()
    path = tmp_path_factory.mktemp("weights") / "dinov2_vits14.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def lite() -> encoders.Encoder:
    return load_encoder("efficientnet_lite0")


def pictures(n: int, side: int, channels: int = 3, seed: int = 0) -> Tensor:
    """Smooth random pictures, uint8 (n, channels, side, side)."""
    noise = torch.rand(n, channels, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(noise, (side, side), mode="bicubic").clamp(0, 1)
    return (smooth * 255).to(torch.uint8)


# --- all encoders ---------------------------------------------------------------------------------


def test_pixels():
    images = pictures(5, 7, channels=1)
    encoder = load_encoder("pixels")
    features = encoder.encode(images, batch_size=2)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, images.flatten(1).float() / 127.5 - 1)
    assert encoder.dim is None
    assert load_encoder("pixels", "paper").fingerprint != encoder.fingerprint


def test_wrong_images():
    encoder = load_encoder("pixels")
    for wrong in (torch.rand(2, 3, 4, 4), pictures(2, 4)[0], pictures(2, 4)[:, :2]):
        with pytest.raises(ValueError, match="expected uint8 images"):
            encoder.encode(wrong)
    with pytest.raises(ValueError, match="no images"):
        encoder.encode(pictures(2, 4)[:0])


def test_unknown_names_and_needless_weights(tmp_path):
    with pytest.raises(UserError, match=r"unknown encoder 'dino': known are dinov2_vits14, .*pixels"):
        load_encoder("dino")
    with pytest.raises(UserError, match=r"did you mean 'dinov2_vitg14'\? known are"):
        load_encoder("dinov2-vitg14")
    with pytest.raises(UserError, match="preprocessing 'papr': give standard or paper"):
        load_encoder("pixels", "papr")
    with pytest.raises(UserError, match="takes no weights"):
        load_encoder("pixels", weights=tmp_path / "x.pth")


@pytest.mark.slow
def test_importing_the_package_imports_no_encoder_library():
    code = (
        "import sys, pareto_amb.evaluation.encoders, pareto_amb.evaluation.objectives\n"
        "bad = {'timm', 'torch_fidelity', 'ray', 'mlflow', 'torchvision'} & set(sys.modules)\n"
        "print(sorted(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "address", "file"),
    [
        ("dinov2_vits14", f"https://huggingface.co/timm/{VITS}/resolve/main/model.safetensors",
         "dinov2_vits14.safetensors"),
        ("inception_v3", "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
         "weights-inception-2015-12-05-6726825d.pth", "inception_v3.pth"),
    ],
)  # fmt: skip
def test_missing_weights_are_one_clear_line(name, address, file, tmp_path, monkeypatch):
    with pytest.raises(UserError) as caught:
        load_encoder(name)
    message = str(caught.value)
    assert message.startswith(name)
    assert address in message
    assert str(tmp_path / file) in message
    assert "\n" not in message
    monkeypatch.delenv("PARETO_AMB_WEIGHTS")
    with pytest.raises(UserError, match=rf"\$PARETO_AMB_WEIGHTS/{file}"):
        load_encoder(name)


def test_unusable_files_are_named(tmp_path, vits_file):
    with pytest.raises(UserError, match=r"nowhere\.pth: no such weights file"):
        load_encoder("dinov2_vits14", weights=tmp_path / "nowhere.pth")
    for name, content in {"a.pth": b"", "b.pth": b"garbage", "c.safetensors": b"garbage",
                          "d.pth": b"PK\x03\x04garbage"}.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: cannot be read") as caught:
            load_encoder("dinov2_vits14", weights=tmp_path / name)
        assert "\n" not in str(caught.value)
    torch.save({"epoch": 3}, tmp_path / "e.pth")
    with pytest.raises(UserError, match=r"e\.pth: not a weights file"):
        load_encoder("inception_v3", weights=tmp_path / "e.pth")


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("pwned"),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["dinov2_vits14", "inception_v3", "efficientnet_lite0"])
def test_no_code_runs_from_a_weights_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Malicious()))
    torch.save({"weight": Malicious()}, tmp_path / "evil2.pth")
    for file in ("evil.pth", "evil2.pth"):
        with pytest.raises(UserError, match="cannot be read"):
            load_encoder(name, weights=tmp_path / file)
    assert not (tmp_path / "pwned").exists()


def test_wrong_tensors_are_named(tmp_path, vits_file):
    state = load_file(vits_file)
    bad = {
        "tensor 'blocks.0.norm1.weight' is missing": state | {"blocks.0.norm1.weight": None},
        "tensor 'extra' is unexpected": state | {"extra": torch.zeros(1)},
        r"tensor 'norm.weight' has shape \[3\], expected \[384\]": state | {"norm.weight": torch.zeros(3)},
    }
    for message, tensors in bad.items():
        kept = {key: tensor for key, tensor in tensors.items() if tensor is not None}
        save_file(kept, tmp_path / "bad.safetensors")
        with pytest.raises(UserError, match=f"bad.safetensors: not the weights of .*: {message}"):
            load_encoder("dinov2_vits14", weights=tmp_path / "bad.safetensors")


# --- DINOv2 ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_dinov2_in_both_namings(vits_file, tmp_path, monkeypatch):
    ours = load_encoder("dinov2_vits14", weights=vits_file)
    meta = load_file(vits_file) | {"mask_token": torch.zeros(1, 384)}
    torch.save(meta, tmp_path / "dinov2_vits14_pretrain.pth")
    theirs = load_encoder("dinov2_vits14")  # found in PARETO_AMB_WEIGHTS
    assert ours.dim == 384
    assert theirs.fingerprint == ours.fingerprint
    paper = load_encoder("dinov2_vits14", "paper", vits_file)
    assert paper.fingerprint != ours.fingerprint
    assert ours.encode(pictures(2, 32)).shape == (2, 384)
    colour = pictures(1, 32, channels=1).repeat(1, 3, 1, 1)
    torch.testing.assert_close(ours.encode(colour[:, :1]), ours.encode(colour))


@pytest.mark.slow
def test_dinov2_equals_timm_where_no_embedding_is_resized(vits_file):
    model = timm.create_model(VITS, num_classes=0).eval()
    model.load_state_dict(load_file(vits_file))
    encoder = load_encoder("dinov2_vits14", weights=vits_file)
    images = torch.rand(1, 3, 518, 518, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(encoder.network(images), model(images), rtol=0, atol=1e-5)


def cubic_weights(size: int, side: int) -> Tensor:
    """Bicubic resampling as a matrix (size, side); point i is at (i + ½)·side/(size + 0.1) - ½."""
    matrix = torch.zeros(size, side, dtype=torch.float64)
    for i in range(size):
        centre = (i + 0.5) * side / (size + 0.1) - 0.5
        for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
            x, a = abs(centre - j), -0.75
            near = (a + 2) * x**3 - (a + 3) * x**2 + 1
            far = a * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[i, min(max(j, 0), side - 1)] += near if x <= 1 else far
    return matrix


@pytest.mark.parametrize(("height", "width"), [(16, 16), (3, 3), (3, 5)])
def test_dinov2_position_embeddings_are_resized_as_metas(height, width):
    generator = torch.Generator().manual_seed(0)
    position = torch.randn(1, 1 + 37 * 37, 4, generator=generator)
    resized = encoders._resized_position(position, height, width)
    assert torch.equal(resized[:, 0], position[:, 0])
    grid = position[0, 1:].double().view(37, 37, 4)
    down, across = cubic_weights(height, 37), cubic_weights(width, 37)
    expected = torch.einsum("hi,wj,ijd->hwd", down, across, grid)
    torch.testing.assert_close(resized[0, 1:].view(height, width, 4), expected.float())


def test_paper_preprocessing():
    images = pictures(1, 32)
    padded = encoders._prepare_dinov2_paper(images)
    assert padded.shape == (1, 3, 42, 42)
    values = images.float() / 255
    torch.testing.assert_close(padded[..., 5:37, 5:37], values)
    torch.testing.assert_close(padded[..., 4, 5:37], values[..., 1, :])  # the edge is not repeated
    odd = encoders._prepare_dinov2_paper(pictures(1, 25))
    torch.testing.assert_close(odd[..., 1:26, 1:26], pictures(1, 25).float() / 255)
    assert encoders._prepare_dinov2_paper(pictures(1, 28)).shape[-1] == 28
    assert encoders._prepare_dinov2_paper(pictures(1, 6)).shape[-1] == 14
    with pytest.raises(UserError, match="5x5 pixels are too small"):
        encoders._prepare_dinov2_paper(pictures(1, 5))


def test_standard_preprocessing():
    white = torch.full((1, 1, 32, 32), 255, dtype=torch.uint8)
    prepared = encoders._prepare_dinov2(white)
    assert prepared.shape == (1, 3, 224, 224)
    torch.testing.assert_close(prepared[0, :, 9, 9], torch.tensor([2.2489, 2.4286, 2.64]), atol=1e-4, rtol=0)


def test_features_that_are_not_finite_are_refused(vits_file, tmp_path):
    save_file(
        load_file(vits_file) | {"norm.bias": torch.full((384,), torch.nan)},
        tmp_path / "n.safetensors",
    )
    encoder = load_encoder("dinov2_vits14", "paper", tmp_path / "n.safetensors")
    with pytest.raises(UserError, match="dinov2_vits14: features are not finite"):
        encoder.encode(pictures(1, 28))


# --- Inception ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_inception_is_torch_fidelitys(tmp_path, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    with monkeypatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *a, **k: None)
        torch.manual_seed(0)
        model = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(model.state_dict(), tmp_path / "weights-inception-2015-12-05-6726825d.pth")
    encoder = load_encoder("inception_v3")
    images = pictures(2, 32)
    features = encoder.encode(images)
    assert features.shape == (2, 2048)
    assert encoder.dim == 2048
    torch.testing.assert_close(features, model(images)[0])
    state = {k: v for k, v in model.state_dict().items() if k != "fc.bias"}
    torch.save(state, tmp_path / "inception_v3.pth")
    with pytest.raises(UserError, match=r"inception_v3\.pth: not .*: tensor 'fc\.bias' is missing"):
        load_encoder("inception_v3")


# --- EfficientNet-Lite0 ---------------------------------------------------------------------------


def test_efficientnet_equals_a_plain_timm_model(lite):
    packaged = torch.load(weights.find("efficientnet_lite0"), weights_only=True)
    tensors = [v for k, v in packaged.items() if not k.endswith("num_batches_tracked")]
    model = timm.create_model("tf_efficientnet_lite0")
    targets = [v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")]
    for target, tensor in zip(targets, tensors, strict=True):
        target.copy_(tensor)
    images = pictures(3, 32)
    values = F.interpolate(images.float() / 127.5 - 1, (64, 64), mode="bilinear")
    with torch.inference_mode():
        expected = model.eval().forward_head(model.forward_features(values), pre_logits=True)
    torch.testing.assert_close(lite.encode(images), expected, rtol=1e-4, atol=1e-4)
    assert lite.dim == 1280


def test_efficientnet_takes_timms_naming_too(lite, tmp_path):
    model = timm.create_model("tf_efficientnet_lite0")
    save_file(model.state_dict(), tmp_path / "efficientnet_lite0.safetensors")
    other = load_encoder("efficientnet_lite0")  # a file of the user's goes before the package
    assert other.fingerprint != lite.fingerprint
    assert torch.equal(other.network.conv_stem.weight, model.conv_stem.weight)
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "few.pth")
    with pytest.raises(UserError, match=r"few\.pth: not the weights of efficientnet_lite0: tensor"):
        load_encoder("efficientnet_lite0", weights=tmp_path / "few.pth")


def test_efficientnet_without_its_package(monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"timm/tf_efficientnet_lite0\.in1k/resolve"):
        load_encoder("efficientnet_lite0")


def test_efficientnet_knows_a_picture_again(lite, digits):
    """A picture slightly brighter is closer to itself than to another picture."""
    brighter = (digits[:20].float() * 1.08 + 4).clamp(0, 255).to(torch.uint8)
    features = F.normalize(lite.encode(digits[:20]), dim=1)
    similarity = features @ F.normalize(lite.encode(brighter), dim=1).T
    assert torch.equal(similarity.argmax(1), torch.arange(20))


def test_efficientnet_features_do_not_depend_on_the_batch_and_survive_the_journey(lite, digits):
    again = cloudpickle.loads(cloudpickle.dumps(lite))
    assert again.fingerprint == lite.fingerprint
    whole = lite.encode(digits[:12])
    torch.testing.assert_close(again.encode(digits[:12], batch_size=5), whole, rtol=1e-4, atol=1e-5)
    assert not whole.is_inference()
