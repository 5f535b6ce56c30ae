"""Which mask sees how much of which Gaussian: one compiled pass over the tile lists for all levels of label maps.

A tile's pixels fall into few *regions*, areas that agree in the labels of all levels. So the loop over splats and
rows of pixels, which is that of the compositing, adds up one number per list entry and region, and levels play no
part in it. Afterwards each Gaussian gathers its entries of all tiles, and a region's weight goes to the region's mask
at every level. No two threads write to one place, and sums run in the order of the tiles: the result is the same bit
for bit, whatever the number of threads is.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np

from lang_splat_ns.splatting.cpu_kernels import PIXELS, aligned, draw_row, lane_centers, start_light, stride
from lang_splat_ns.splatting.cpu_threads import ONLY_PRANGE
from lang_splat_ns.splatting.simd import address, load, store, total
from lang_splat_ns.splatting.tile_lists import TILE, TileLists

TABLE_SIZE = 1 << 25
"""Weights per entry and region held at a time, 128 MB in single precision. Beyond it, views are done in pieces."""

_SPANS_PER_THREAD = 4


class VoteRows(NamedTuple):
    """Votes as the rows of one sparse matrix, the levels one below the other: Gaussian g's are `level * N + g`."""

    starts: np.ndarray
    """Where each row begins in the other two. int64 [L * N + 1]"""
    masks: np.ndarray
    """Masks of the row's level, ascending. int32 [E]"""
    weights: np.ndarray
    """Sum of alpha T over the mask's pixels. [E]"""


def gather_votes(
    packed: np.ndarray,  # [N, 8]
    lists: TileLists,
    labels: np.ndarray,  # int32 [L, H, W]
    counts: np.ndarray,  # int64 [L]
    table_size: int = TABLE_SIZE,
) -> tuple[list[VoteRows], np.ndarray]:
    """Votes of one view.

    Args:
        packed: splats from `cpu_kernels.pack_splats`.
        lists: their tile lists.
        labels: which mask owns each pixel, -1 = none.
        counts: number of masks of each level.
        table_size: weights per entry and region held at a time.

    Returns:
        Pieces that add up to the votes, nearly always one; and how much is seen of each Gaussian, in a mask or not,
        float64 [N].
    """
    _, height, width = labels.shape
    regions, region_counts = _find_regions(labels)
    region_starts = _starts(region_counts)
    region_labels = _label_regions(labels, regions, region_starts)
    spans = np.linspace(0, len(packed), _SPANS_PER_THREAD * nb.get_num_threads() + 1).astype(np.int64)
    cell_counts = np.diff(lists.offsets) * region_counts
    visible = np.zeros(len(packed))
    pieces = []
    for first, end in _cut(cell_counts, table_size):
        cells = _starts(cell_counts[first:end])
        table = _weigh_regions(packed, *lists, regions, region_starts, first, cells, width, height)
        entries = _entries_by_gaussian(lists.ids, lists.offsets, region_starts, first, cells, len(packed))
        masks, weights, rooms, sizes, seen = _sum_up(
            *entries, table, region_starts, region_labels, _starts(counts), spans
        )
        starts = _starts(sizes.ravel())
        pieces.append(VoteRows(starts, *_sort_by_level(masks, weights, rooms, sizes, spans, starts)))
        visible += seen
    return pieces, visible


def _starts(sizes: np.ndarray) -> np.ndarray:
    """Where each of several runs begins, and where the last one ends: int64 [n + 1]."""
    starts = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    return starts


def _cut(sizes: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Runs of tiles whose sizes add up to at most `most`; a single tile may exceed it."""
    runs, first, size = [], 0, 0
    if sizes.sum() <= most:
        return [(0, len(sizes))]
    for tile, more in enumerate(sizes):
        if size + more > most and tile > first:
            runs.append((first, tile))
            first, size = tile, 0
        size += more
    return [*runs, (first, len(sizes))]


@nb.njit(cache=True, nogil=True, parallel=ONLY_PRANGE)
def _find_regions(labels):
    """Number the areas of each tile that agree in all labels, in order of appearance.

    Returns:
        The region of each pixel, uint8 [tiles, 256], and how many regions each tile has, int64 [tiles].
    """
    levels, height, width = labels.shape
    tiles_x, tiles_y = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    regions = np.zeros((tiles_x * tiles_y, PIXELS), np.uint8)
    counts = np.zeros(tiles_x * tiles_y, np.int64)
    for tile in nb.prange(tiles_x * tiles_y):
        y0, x0 = tile // tiles_x * TILE, tile % tiles_x * TILE
        known, count, latest = np.empty((PIXELS, levels), np.int32), 0, 0
        for y in range(y0, min(y0 + TILE, height)):
            for x in range(x0, min(x0 + TILE, width)):
                # Neighbours mostly agree, so the search begins with the previous pixel's region.
                region = latest if count > 0 and _agree(known, latest, labels, y, x) else 0
                while region < count and not _agree(known, region, labels, y, x):
                    region += 1
                if region == count:
                    for level in range(levels):
                        known[count, level] = labels[level, y, x]
                    count += 1
                regions[tile, (y - y0) * TILE + x - x0] = latest = region
        counts[tile] = count
    return regions, counts


@nb.njit(forceinline=True)
def _agree(known, region, labels, y, x):
    """Whether a pixel has the labels of a known region."""
    for level in range(labels.shape[0]):
        if known[region, level] != labels[level, y, x]:
            return False
    return True


@nb.njit(cache=True, nogil=True, parallel=ONLY_PRANGE)
def _label_regions(labels, regions, region_starts):
    """Labels of all tiles' regions: int32 [regions, L]."""
    levels, height, width = labels.shape
    tiles_x = (width + TILE - 1) // TILE
    found = np.empty((region_starts[-1], levels), np.int32)
    for tile in nb.prange(len(regions)):
        y0, x0 = tile // tiles_x * TILE, tile % tiles_x * TILE
        for y in range(y0, min(y0 + TILE, height)):
            for x in range(x0, min(x0 + TILE, width)):
                region = region_starts[tile] + regions[tile, (y - y0) * TILE + x - x0]
                for level in range(levels):
                    found[region, level] = labels[level, y, x]
    return found


@nb.njit(cache=True, nogil=True, parallel=ONLY_PRANGE)
def _weigh_regions(packed, ids, rows, offsets, regions, region_starts, first, cells, width, height):
    """Sum of alpha T of every list entry in each region of its tile.

    Args:
        first: number of the first tile that is wanted.
        cells: where in the result the tables of this and the following tiles begin.

    Returns:
        For each of these tiles a table of its entries by its regions. [cells[-1]]
    """
    table = np.zeros(cells[-1], packed.dtype)
    tiles, tiles_x = cells.size - 1, (width + TILE - 1) // TILE
    step = stride(tiles) if tiles > 0 else 1
    for i in nb.prange(tiles):
        piece = i * step % tiles
        tile = first + piece
        y0, x0 = tile // tiles_x * TILE, tile % tiles_x * TILE
        start, count = offsets[tile], offsets[tile + 1] - offsets[tile]
        areas, masks, row_areas = _rows_of_regions(regions[tile], packed.dtype)
        _weigh_tile(
            packed, ids[start:], rows[start:], count, y0, start_light(y0, x0, width, height, packed.dtype),
            np.empty(PIXELS, np.int32), np.array([0, min(TILE, height - y0) - 1]), lane_centers(x0, packed.dtype),
            areas, masks, row_areas, aligned(PIXELS * TILE, packed.dtype),
            table[cells[piece] :], region_starts[tile + 1] - region_starts[tile],
        )  # fmt: skip
    return table


@nb.njit(cache=True, nogil=True)
def _rows_of_regions(regions, dtype):
    """Take a tile's regions apart into areas of one region in one row of pixels.

    Returns:
        The region of each area; 1 in its lanes and 0 in the others [areas * 16]; and where each row's areas begin,
        [17].
    """
    areas, masks, row_areas = np.empty(PIXELS, np.int64), aligned(PIXELS * TILE, dtype), np.zeros(TILE + 1, np.int64)
    count = 0
    for row in range(TILE):
        row_areas[row] = count
        for lane in range(TILE):
            region, area = regions[row * TILE + lane], row_areas[row]
            while area < count and areas[area] != region:
                area += 1
            if area == count:
                areas[count] = region
                masks[count * TILE : (count + 1) * TILE] = 0.0
                count += 1
            masks[area * TILE + lane] = 1.0
    row_areas[TILE] = count
    return areas, masks, row_areas


@nb.njit(cache=True, nogil=True)
def _weigh_tile(
    packed, ids, rows, count, y0, light, stops, open_rows, centers, areas, masks, row_areas, sums, table, regions
):
    """Send the light of one tile through its splats, as `cpu_kernels._blend` does, and note each region's share.

    Args:
        light, stops, open_rows, centers: as there.
        areas, masks, row_areas: from `_rows_of_regions`.
        sums: memory for a row per region. [regions * 16]
        table: entries by regions, zero; updated. [count * regions]
    """
    light_at, stops_at, open_at, sums_at = address(light), address(stops), address(open_rows), address(sums)
    areas_at, masks_at, row_areas_at = address(areas), address(masks), address(row_areas)
    xs = load(centers, 0)
    nothing = xs * 0.0
    for place in range(count):
        g = ids[place]
        dx = xs - packed[g, 0]
        from_x, slope = dx * dx * packed[g, 2], dx * packed[g, 3]
        top, c, opacity_log = y0 + 0.5 - packed[g, 1], packed[g, 4], packed[g, 5]
        for region in range(regions):
            store(sums_at, region * TILE, nothing)
        for row in range(max(rows[place] & 15, open_rows[0]), min(rows[place] >> 4, open_rows[1]) + 1):
            dy = top + row
            falloff = from_x + (slope * dy + c * dy * dy)
            weight, bits = draw_row(light_at, stops_at, open_at, place, row, opacity_log, falloff)
            if bits != 0:
                for area in range(row_areas_at[row], row_areas_at[row + 1]):
                    at = areas_at[area] * TILE
                    store(sums_at, at, load(sums_at, at) + weight * load(masks_at, area * TILE))
        for region in range(regions):
            table[place * regions + region] = total(load(sums_at, region * TILE))
        if open_rows[0] > open_rows[1]:
            break


@nb.njit(cache=True, nogil=True)
def _entries_by_gaussian(ids, offsets, region_starts, first, cells, gaussians):
    """Sort the list entries of some tiles by Gaussian, keeping the order of the tiles.

    Returns:
        Where each Gaussian's entries begin, int64 [N + 1]; the tile of each entry, int32; and where its weights begin
        in the table of `_weigh_regions`, int64.
    """
    last = first + cells.size - 1
    starts = np.zeros(gaussians + 2, np.int64)
    for entry in range(offsets[first], offsets[last]):
        starts[ids[entry] + 2] += 1
    for g in range(gaussians):
        starts[g + 2] += starts[g + 1]
    tiles = np.empty(offsets[last] - offsets[first], np.int32)
    places = np.empty(tiles.size, np.int64)
    for tile in range(first, last):
        regions = region_starts[tile + 1] - region_starts[tile]
        for entry in range(offsets[tile], offsets[tile + 1]):
            # One place further on, so that in the end each Gaussian's start is where the next one's was.
            slot = starts[ids[entry] + 1]
            starts[ids[entry] + 1] += 1
            tiles[slot] = tile
            places[slot] = cells[tile - first] + (entry - offsets[tile]) * regions
    return starts[:-1], tiles, places


@nb.njit(cache=True, nogil=True, parallel=ONLY_PRANGE)
def _sum_up(starts, tiles, places, table, region_starts, region_labels, bases, spans):
    """Add up each Gaussian's entries per mask.

    Args:
        starts, tiles, places: from `_entries_by_gaussian`.
        table: from `_weigh_regions`.
        bases: number of each level's first mask when all are counted through. [L + 1]
        spans: which Gaussians are done by one thread at a time. [S + 1]

    Returns:
        Masks and weights, Gaussian by Gaussian and there level by level, with unused room at the end of each span;
        where each span's begin [S + 1]; how many masks of each level see each Gaussian, int64 [L, N]; and how much is
        seen of it in a mask or not, float64 [N].
    """
    levels, gaussians = bases.size - 1, starts.size - 1
    rooms = _rooms(starts, tiles, region_starts, spans, levels)
    masks, weights = np.empty(rooms[-1], np.int32), np.empty(rooms[-1], table.dtype)
    sizes, visible = np.zeros((levels, gaussians), np.int64), np.zeros(gaussians)
    for span in nb.prange(spans.size - 1):
        sums, met, slot = np.zeros(bases[-1]), np.empty(bases[-1], np.int64), rooms[span]
        for g in range(spans[span], spans[span + 1]):
            count, seen = 0, 0.0
            for k in range(starts[g], starts[g + 1]):
                first = region_starts[tiles[k]]
                for region in range(first, region_starts[tiles[k] + 1]):
                    weight = table[places[k] + region - first]
                    if weight > 0.0:
                        seen += weight
                        count = _add_to_masks(weight, region, region_labels, bases, sums, met, count)
            visible[g] = seen
            level = 0
            for k in range(count):
                mask = met[k]
                while mask >= bases[level + 1]:
                    level += 1
                masks[slot], weights[slot] = mask - bases[level], sums[mask]
                sizes[level, g] += 1
                sums[mask] = 0.0
                slot += 1
    return masks, weights, rooms, sizes, visible


@nb.njit(cache=True, nogil=True)
def _rooms(starts, tiles, region_starts, spans, levels):
    """Where each span may begin to write, so that it has room for a mask per region of its entries and level."""
    rooms = np.zeros(spans.size, np.int64)
    for span in range(spans.size - 1):
        room = 0
        for k in range(starts[spans[span]], starts[spans[span + 1]]):
            room += region_starts[tiles[k] + 1] - region_starts[tiles[k]]
        rooms[span + 1] = rooms[span] + room * levels
    return rooms


@nb.njit(forceinline=True)
def _add_to_masks(weight, region, region_labels, bases, sums, met, count):
    """Add a region's weight to its masks' sums, and keep `met`, the masks that have any, in ascending order."""
    for level in range(region_labels.shape[1]):
        if region_labels[region, level] >= 0:
            mask = bases[level] + region_labels[region, level]
            if sums[mask] == 0.0:
                place = count
                while place > 0 and met[place - 1] > mask:
                    met[place] = met[place - 1]
                    place -= 1
                met[place] = mask
                count += 1
            sums[mask] += weight
    return count


@nb.njit(cache=True, nogil=True, parallel=ONLY_PRANGE)
def _sort_by_level(masks, weights, rooms, sizes, spans, row_starts):
    """Bring what `_sum_up` found into the order of `VoteRows`, whose `starts` are given."""
    levels, gaussians = sizes.shape
    sorted_masks, sorted_weights = np.empty(row_starts[-1], np.int32), np.empty(row_starts[-1], weights.dtype)
    for span in nb.prange(spans.size - 1):
        slot = rooms[span]
        for g in range(spans[span], spans[span + 1]):
            for level in range(levels):
                start = row_starts[level * gaussians + g]
                for k in range(sizes[level, g]):
                    sorted_masks[start + k], sorted_weights[start + k] = masks[slot], weights[slot]
                    slot += 1
    return sorted_masks, sorted_weights
