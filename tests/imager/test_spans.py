"""Spans against a brute-force reading of the same extents."""

from hypothesis import given, settings
from hypothesis import strategies as st

from imager.spans import BLOCK_BYTES, PAGE_BYTES, PAGES, SPAN_BLOCKS, Extent, Idle, Span, pieces, stretches

SIZE_BLOCKS = 40


def extents(limit: int) -> st.SearchStrategy[list[Extent]]:
    one = st.tuples(st.integers(0, limit - 1), st.integers(1, limit // 3)).map(lambda pair: Extent(*pair))
    return st.lists(one, max_size=12).map(sorted)


def used_pages(found: list[Extent], size: int) -> set[int]:
    pages: set[int] = set()
    for start, length in found:
        stop = min(start + length, size)
        pages.update(range(start // PAGE_BYTES, -(-stop // PAGE_BYTES)))
    return pages


@given(st.integers(1, SIZE_BLOCKS * BLOCK_BYTES).flatmap(lambda size: st.tuples(st.just(size), extents(max(size, 3)))))
@settings(max_examples=300)
def test_every_block_once_and_every_used_page_kept(case: tuple[int, list[Extent]]) -> None:
    size, found = case
    blocks = -(-size // BLOCK_BYTES)
    pages, last_page = used_pages(found, size), (size - 1) // PAGE_BYTES
    at = 0
    for block, count, mask in stretches(found, size):
        assert block == at and count >= 1
        for each in range(block, block + count):
            for page in range(PAGES):
                number = each * PAGES + page
                free = number not in pages and not (number > last_page and last_page in pages)
                assert bool(mask >> page & 1) == free
        at += count
    assert at == blocks


@given(
    st.integers(1, SIZE_BLOCKS * BLOCK_BYTES).flatmap(
        lambda size: st.tuples(st.just(size), extents(max(size, 3)), st.none() | extents(max(size, 3)))
    )
)
@settings(max_examples=300)
def test_pieces_cover_in_order_and_read_what_holds_data(case: tuple[int, list[Extent], list[Extent] | None]) -> None:
    size, found, data = case
    masks = [each.mask for each in stretches(found, size) for _ in range(each.count)]
    holds = None if data is None else used_pages(data, size)
    at = 0
    for piece in pieces(stretches(found, size), data, size):
        assert piece.block == at
        count = piece.count if isinstance(piece, Idle) else len(piece.masks)
        if isinstance(piece, Span):
            assert piece.block // SPAN_BLOCKS == (piece.block + count - 1) // SPAN_BLOCKS
        for offset in range(count):
            block = at + offset
            hole = holds is not None and not any(block * PAGES + page in holds for page in range(PAGES))
            unused = masks[block] == (1 << PAGES) - 1
            assert isinstance(piece, Idle) == (hole or unused)
            if isinstance(piece, Idle):
                assert piece.unused == unused
            else:
                assert piece.masks[offset] == masks[block]
        at += count
    assert at == len(masks)
