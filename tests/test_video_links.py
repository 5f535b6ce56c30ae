"""Masks linked across photos: the matching on drawn things, and SAM 2's video model on tiny random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_sam2 import tiny_sam2_video

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.sam2 import square_pixels
from lang_splat_ns.perception.sam2_tracker import Sam2Tracker
from lang_splat_ns.perception.video_links import Links, LinkSettings, link_masks, match

RED, GREEN, BLUE = (200, 30, 30), (30, 180, 40), (40, 60, 220)


class ColourTracker:
    """Follows whatever has the colour that it was shown, instead of a network."""

    def look(self, image: np.ndarray) -> None:
        self.image = image.astype(np.float32)

    def begin(self, mask: np.ndarray) -> np.ndarray:
        return self.image[mask].mean(axis=0)

    def follow(self, track: np.ndarray) -> torch.Tensor | None:
        logits = 10.0 - np.abs(self.image - track).sum(axis=-1)
        return torch.from_numpy(logits) if (logits > 0).any() else None


def drawn(*things: tuple[tuple[int, int, int], int]) -> tuple[np.ndarray, np.ndarray]:
    """A photo with squares of (colour, column), and its label map, where their order gives the ids."""
    image, labels = np.full((24, 60, 3), 255, dtype=np.uint8), np.full((24, 60), -1, dtype=np.int32)
    for region, (colour, column) in enumerate(things):
        image[8:16, column : column + 8] = colour
        labels[8:16, column : column + 8] = region
    return image, labels


def linked(*frames: Any, settings: LinkSettings | None = None) -> list[Links]:
    return list(link_masks(ColourTracker(), frames, settings))


def test_things_keep_their_object_however_they_move_and_are_numbered() -> None:
    first = drawn((RED, 2), (GREEN, 20))
    second = drawn((GREEN, 30), (BLUE, 45), (RED, 8))
    only_looked_at = (drawn((RED, 12), (BLUE, 40))[0], None)
    last = drawn((BLUE, 30), (RED, 20))
    links = linked(first, second, only_looked_at, last)
    assert [link.objects.tolist() for link in links] == [[0, 1], [1, 2, 0], [], [2, 0]]
    assert (links[0].tracked == -1).all()
    # The blue one begins in the second photo.
    assert set(np.unique(links[1].tracked)) == {-1, 0, 1}
    assert set(np.unique(links[2].tracked)) == {-1, 0, 2}
    assert (links[2].tracked[8:16, 40:48] == 2).all()


def test_a_thing_that_was_hidden_comes_back_if_it_was_not_for_too_long() -> None:
    shown, hidden = drawn((RED, 2), (GREEN, 20)), drawn((GREEN, 20))
    for patience, expected in ((3, 0), (2, 2)):
        links = linked(shown, hidden, hidden, shown, settings=LinkSettings(patience=patience))
        assert links[-1].objects.tolist() == [expected, 1]


def test_small_regions_are_not_followed() -> None:
    links = linked(drawn((RED, 2)), drawn((RED, 2)), settings=LinkSettings(min_share=0.1))
    assert [link.objects.tolist() for link in links] == [[0], [1]]


def test_no_photos_and_no_masks() -> None:
    assert linked() == []
    nothing = linked(drawn(), drawn((RED, 5)))
    assert [link.objects.tolist() for link in nothing] == [[], [0]]


def test_matching_is_one_to_one_and_by_overlap() -> None:
    tracked = np.full((10, 20), -1, dtype=np.int32)
    tracked[:, :10], tracked[:, 10:14] = 5, 9
    labels = np.full((10, 20), -1, dtype=np.int32)
    labels[:, :7], labels[:, 7:10], labels[:, 12:20] = 0, 1, 2
    # The second lies in object 5 as well, which is the first's; the third covers too little of object 9.
    assert match(labels, tracked, 0.5).tolist() == [5, -1, -1]
    assert match(labels, tracked, 0.15).tolist() == [5, -1, 9]
    assert match(labels, np.full_like(tracked, -1), 0.1).tolist() == [-1, -1, -1]
    assert match(np.full_like(labels, -1), tracked, 0.1).tolist() == []


def test_tracker_gives_what_the_model_gives_in_one_session() -> None:
    """A session for each object, shared features and a forgetful memory change nothing."""
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    model, random = tiny_sam2_video(), np.random.default_rng(0)
    there = model.mask_decoder.pred_obj_score_head.proj_out.bias
    there.fill_(100.0)
    images = random.integers(0, 256, (20, 40, 60, 3), dtype=np.uint8)
    masks = np.zeros((2, 40, 60), dtype=bool)
    masks[0, 5:20, 5:30] = masks[1, 20:38, 30:55] = True

    tracker = Sam2Tracker(model)
    tracker.look(images[0])
    tracks = [tracker.begin(mask) for mask in masks]
    session = Sam2VideoInferenceSession(video_height=40, video_width=60, dtype=torch.float32)
    for index, track in enumerate(tracks):
        session.add_mask_inputs(session.obj_id_to_idx(index), 0, track.mask_inputs_per_obj[0][0])
    session.obj_with_new_inputs = [0, 1]
    for time, image in enumerate(images):
        expected = model(session, frame=square_pixels(image, model.image_size, model.device), frame_idx=time)
        if time == 0:
            continue
        tracker.look(image)
        for index, track in enumerate(tracks):
            logits = tracker.follow(track)
            assert logits is not None
            torch.testing.assert_close(logits, expected.pred_masks[index, 0], rtol=1e-3, atol=1e-3)
    past = tracks[0].output_dict_per_obj[0]["non_cond_frame_outputs"]
    assert len(past) == 16
    assert not any("high_res_masks" in output for output in past.values())
    assert not tracks[0].processed_frames
    there.fill_(-100.0)
    tracker.look(images[0])
    assert tracker.follow(tracks[0]) is None


def test_linking_with_the_video_model(tmp_path: Path) -> None:
    tiny_sam2_video().save_pretrained(tmp_path)
    tracker = Sam2Tracker.load(str(tmp_path))
    frames = [drawn((RED, 2), (GREEN, 20)), (drawn((RED, 5))[0], None), drawn((GREEN, 25), (RED, 8))]
    links = list(link_masks(tracker, frames))
    assert [len(link.objects) for link in links] == [2, 0, 2]
    assert links[0].objects.tolist() == [0, 1]
    assert all(link.tracked.shape == (24, 60) for link in links)
    with pytest.raises(UserError, match="no folder with a model"):
        Sam2Tracker.load(str(tmp_path / "gone"))
