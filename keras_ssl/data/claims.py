"""What a header claims, held against its file before memory is taken for it."""

LARGEST = 1 << 31
"""Bytes that a compressed file may unpack to where it is less than a fiftieth of that; may be set."""

# Deflate makes at best one byte of 1032. Of the others that are read here LZW, and fax codes of a blank page,
# get further, on pictures without content.
_TIGHTEST = 1032
# What a tiny file may claim at no risk: a blank picture of 32 megapixels.
_HARMLESS = 1 << 25
# What scans and photographs do not reach, and only masks of a few voxels among many and bombs do.
_UNUSUAL = 50


def refuse_claim(claimed: int, stored: int, packed: bool, tightest: int = _TIGHTEST) -> None:
    """Refuse a file whose header claims more than its bytes can hold, or so much that it must be a bomb.

    What is not compressed is limited by its bytes alone, and so are large files of the usual compression.
    Zeros without end, which a thousandth of their size can hold, are limited by `LARGEST`.

    Args:
        claimed: bytes that the header claims, once they are unpacked.
        stored: bytes that there are.
        packed: whether these are compressed.
        tightest: how many bytes one byte can hold where they are.

    Raises:
        ValueError: there are too few of them.

    >>> refuse_claim(10**9, stored=10**6, packed=True)
    >>> refuse_claim(10**9, stored=10**5, packed=True)
    Traceback (most recent call last):
        ...
    ValueError: its size must be one that the 100000 bytes stored can hold. Received a header that claims \
1000000000 bytes
    """
    if claimed > (max(tightest * stored, _HARMLESS) if packed else stored):
        raise ValueError(
            f"its size must be one that the {stored} bytes stored can hold. Received a header that claims "
            f"{claimed} bytes"
        )
    if packed:
        refuse_bomb(claimed, stored)


def refuse_bomb(claimed: int, stored: int) -> None:
    """Refuse what is compressed to less than a fiftieth and would be larger than `LARGEST`.

    Raises:
        ValueError: it would be.
    """
    if claimed > max(LARGEST, _UNUSUAL * stored):
        raise ValueError(
            f"its size must be {LARGEST} bytes at most where it is compressed to less than a fiftieth. "
            f"Received {stored} bytes of a header that claims {claimed}. If it can be trusted, set "
            "keras_ssl.data.claims.LARGEST"
        )
