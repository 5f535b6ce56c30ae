"""Tiles, their embeddings, and what they say about a pixel: against slow twins, and through the store."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from perception_fakes import MeanColour
from tiny_clips import open_clip_network

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.clip_encoder import ClipEncoder
from lang_splat_ns.perception.extract import Frame, content_key, silent
from lang_splat_ns.perception.feature_store import FeatureStore
from lerf_ns.dino import DinoExtractor, DinoMaps
from lerf_ns.pyramid import PhotoPyramid, Pyramids, axis_colours, embed_pyramid, principal_axes
from lerf_ns.stages import as_pyramid, dino_stage, pyramid_stage
from lerf_ns.tiles import PyramidPlan, cut_tiles, tile_layers

PLAN = PyramidPlan(0.1, 0.5, 3)


def photo(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def frame(path: Path) -> Frame:
    from PIL import Image

    return Frame(path.name, content_key(path, {}), lambda: np.array(Image.open(path)))


def write_photo(path: Path, image: np.ndarray) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


class Crops(MeanColour):
    """Counts its calls."""

    calls = 0

    def embed_regions(self, image: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
        self.calls += 1
        return super().embed_regions(image, labels, count)


def test_the_papers_tiles() -> None:
    grids = PyramidPlan().grids(738, 994)
    shares = np.linspace(0.05, 0.5, 7)
    assert [grid.size for grid in grids] == [int(738 * share) for share in shares]
    # As far apart as they are large at 0.05 of the height, and half of that from 0.15 on.
    assert [grid.stride for grid in grids[2:]] == [grid.size // 2 for grid in grids[2:]]
    assert grids[0].stride == grids[0].size
    assert (grids[0].rows, grids[0].columns) == ((738 + 36 - 36) // 36 + 1, (994 + 36 - 36) // 36 + 1)


@pytest.mark.parametrize("broken", [PyramidPlan(0.5, 0.05), PyramidPlan(sizes=1), PyramidPlan(stride=0.0)])
def test_tiles_that_make_no_sense(broken: PyramidPlan) -> None:
    with pytest.raises(UserError, match="tiles from"):
        broken.check()


def test_layers_hold_the_very_pixels_of_the_tiles() -> None:
    image = photo()
    for grid in PLAN.grids(60, 80):
        tiles = list(cut_tiles(image, grid))
        assert len(tiles) == grid.rows * grid.columns
        found: list[int] = []
        for layer in tile_layers(grid, 60, 80):
            for number, tile in enumerate(layer.tiles.tolist()):
                inside = layer.labels == number
                top, left = (max(grid.start(index), 0) for index in divmod(tile, grid.columns))
                bottom, right = (grid.start(index) + grid.size for index in divmod(tile, grid.columns))
                assert (image[inside] == image[top:bottom, left:right].reshape(-1, 3)).all()
                assert tiles[tile].sum() == image[inside].sum(dtype=np.int64), "beyond the photo tiles are black"
            found += layer.tiles.tolist()
        assert sorted(found) == list(range(len(tiles)))


def test_an_encoder_of_regions_needs_a_handful_of_calls() -> None:
    encoder = Crops()
    vectors = embed_pyramid(photo(), encoder, PyramidPlan())
    assert encoder.calls <= 7 * 9
    assert [rows.shape[:2] for rows in vectors] == [(g.rows, g.columns) for g in PyramidPlan().grids(60, 80)]


def test_crop_encoders_get_the_tiles_themselves() -> None:
    network = open_clip_network()
    encoder = ClipEncoder("tiny", network.dim, lambda: network)
    image = photo(20, 24)
    plan = PyramidPlan(0.4, 0.5, 2)
    vectors = embed_pyramid(image, encoder, plan)
    import cv2

    grid = plan.grids(20, 24)[1]
    tile = list(cut_tiles(image, grid))[grid.columns + 1]
    side = encoder.network.side
    expected = encoder.encode_crops([cv2.resize(tile, (side, side), interpolation=cv2.INTER_CUBIC)])[0]
    assert np.allclose(vectors[1][1, 1], expected, atol=2e-3)


def slow_lookup(pyramid: PhotoPyramid, row: float, column: float, scale: float) -> np.ndarray:
    """One pixel, one step at a time, as the paper says it."""
    grids = PLAN.grids(pyramid.height, pyramid.width)
    level = scale * (len(grids) - 1)
    parts = []
    for index in (int(level), min(int(level) + 1, len(grids) - 1)):
        grid, vectors = grids[index], pyramid.vectors[index].astype(np.float64)
        centres = [
            [(grid.size - 1) / 2 + grid.start(number) for number in range(count)] for count in (grid.rows, grid.columns)
        ]
        total = np.zeros(vectors.shape[-1])
        for r, row_weight in _neighbours(centres[0], row * pyramid.height - 0.5):
            for c, column_weight in _neighbours(centres[1], column * pyramid.width - 0.5):
                total += row_weight * column_weight * vectors[r, c]
        parts.append(total)
    share = level - int(level)
    return (1 - share) * parts[0] + share * parts[1]


def _neighbours(centres: list[float], place: float) -> list[tuple[int, float]]:
    after = next((index for index, centre in enumerate(centres) if centre > place), len(centres))
    if after in (0, len(centres)):
        return [(min(after, len(centres) - 1), 1.0)]
    share = (place - centres[after - 1]) / (centres[after] - centres[after - 1])
    return [(after - 1, 1 - share), (after, share)]


def test_lookup_is_the_slow_one_on_photos_of_two_sizes() -> None:
    photos = []
    for index, (height, width) in enumerate([(60, 80), (48, 40)]):
        vectors = embed_pyramid(photo(height, width, index), MeanColour(), PLAN)
        photos.append(PhotoPyramid(height, width, vectors))
    rays = 200
    which = torch.randint(2, (rays,))
    places, scales = torch.rand(rays, 2), torch.rand(rays)
    places[:4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 1.0]])
    scales[:3] = torch.tensor([0.0, 1.0, 0.5])
    found = Pyramids(photos, PLAN)(which, places, scales)
    for ray in range(rays):
        expected = slow_lookup(photos[which[ray]], *places[ray].tolist(), float(scales[ray]))
        assert np.allclose(found[ray].numpy(), expected, atol=1e-5), ray
    lengths = found.norm(dim=-1)
    assert lengths.min() < 0.999, "what is interpolated is not made unit again"


def test_a_tile_without_evidence_gives_none() -> None:
    vectors = embed_pyramid(photo(), MeanColour(), PLAN)
    vectors[0][:] = np.nan
    found = Pyramids([PhotoPyramid(60, 80, vectors)], PLAN)(
        torch.zeros(2, dtype=torch.long), torch.full((2, 2), 0.5), torch.tensor([0.2, 0.8])
    )
    assert found[0].isnan().all() and found[1].isfinite().all()


def test_tile_options_take_effect(tmp_path: Path) -> None:
    path = write_photo(tmp_path / "a.png", photo())
    store = FeatureStore(tmp_path / "store")
    shapes = []
    for plan in (PLAN, PyramidPlan(0.2, 0.5, 3), PyramidPlan(0.1, 0.5, 4), PyramidPlan(0.1, 0.5, 3, stride=1.0)):
        stage = pyramid_stage(MeanColour(), plan)
        stage.fill([frame(path)], store, silent)
        shapes.append([rows.shape for rows in as_pyramid(stage.read(frame(path), store)).vectors])
    assert len({str(shape) for shape in shapes}) == 4


def test_two_folders_of_the_same_name_keep_apart(tmp_path: Path) -> None:
    """LERF's own cache goes by the folder's name, so that the second scene gets the first one's features."""
    paths = [write_photo(tmp_path / scene / "images" / "a.png", photo(seed=index)) for index, scene in enumerate("xy")]
    store, stage = FeatureStore(tmp_path / "store"), pyramid_stage(MeanColour(), PLAN)
    stage.fill([frame(path) for path in paths], store, silent)
    first, second = (as_pyramid(stage.read(frame(path), store)) for path in paths)
    assert not np.array_equal(first.vectors[0], second.vectors[0])
    # The same photo elsewhere is the same photo.
    moved = tmp_path / "z" / "images" / "b.png"
    moved.parent.mkdir(parents=True)
    shutil.copy(paths[0], moved)
    assert stage.key(frame(moved)) == stage.key(frame(paths[0]))


def test_the_stage_goes_on_where_it_stopped(tmp_path: Path) -> None:
    paths = [write_photo(tmp_path / f"{index}.png", photo(seed=index)) for index in range(4)]
    frames, store, encoder = [frame(path) for path in paths], FeatureStore(tmp_path / "store"), Crops()
    stage = pyramid_stage(encoder, PLAN)
    stage.fill(frames[:1], store, silent)
    per_photo = encoder.calls

    class StopError(Exception):
        pass

    def interrupted(lacking, what, total):  # type: ignore[no-untyped-def]
        assert total == 4 and len(lacking) == 3
        yield lacking[0]
        raise StopError

    with pytest.raises(StopError):
        stage.fill(frames, store, interrupted)
    stage.fill(frames, store, silent)
    assert encoder.calls == 4 * per_photo
    # A record that is damaged is made again, alone.
    record = store.path("pyramid", stage.key(frames[2]))
    record.write_bytes(record.read_bytes()[:100])
    stage.fill(frames, store, silent)
    assert encoder.calls == 5 * per_photo


def test_colours_stay_when_they_are_made_again() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(500, 12, generator=torch.Generator().manual_seed(0)), dim=-1)
    axes = principal_axes(vectors)
    assert torch.equal(axes, principal_axes(vectors))
    colours = axis_colours(vectors, axes)
    assert colours.shape == (500, 3) and 0 <= colours.min() and colours.max() <= 1
    assert colours.std(0).min() > 0.1


@pytest.fixture(scope="module")
def tiny_dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINO of the published class with random weights."""
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    sizes = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, patch_size=8, image_size=64
    )
    ViTModel(sizes, add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_dino_features_are_the_keys_of_the_last_layer(
    tiny_dino: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lerf_ns.dino.SHORT_SIDE", 64)
    extractor = DinoExtractor(str(tiny_dino))
    path = write_photo(tmp_path / "a.png", photo(64, 96))
    store, stage = FeatureStore(tmp_path / "store"), dino_stage(extractor)
    stage.fill([frame(path)], store, silent)
    features = stage.read(frame(path), store)["features"]
    assert features.shape == (8, 12, 24) and extractor.dim == 24
    network = extractor._network
    pixels = torch.from_numpy(photo(64, 96)).permute(2, 0, 1)[None] / 255.0
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (pixels - mean[:, None, None]) / deviation[:, None, None]
    with torch.no_grad():
        made = network(pixels, interpolate_pos_encoding=True, output_hidden_states=True)
        # Names differ between versions of transformers.
        modules = dict(network.named_modules())
        norm = next(modules[name] for name in reversed(modules) if name.endswith("layernorm_before"))
        key = next(modules[name] for name in reversed(modules) if name.endswith(("attention.key", "k_proj")))
        keys = key(norm(made.hidden_states[-2]))[0, 1:]
    assert np.allclose(features.reshape(-1, 24), keys.numpy(), atol=5e-3)
    # Each pixel has the feature of the patch that it lies in.
    maps = DinoMaps([features, features[:4, :6]])
    found = maps(torch.tensor([0, 1, 1]), torch.tensor([[0.0, 0.0], [0.99, 0.99], [0.3, 0.5]]))
    expected = np.stack([features[0, 0], features[3, 5], features[1, 3]]).astype(np.float32)
    assert np.array_equal(found.numpy(), expected)
