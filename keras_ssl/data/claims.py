"""What a header claims, held against its file before memory is taken for it."""

# Deflate makes at best one byte of 1032. Of the others that are read here LZW, and fax codes of a blank page,
# get further, on pictures without content.
_TIGHTEST = 1032
# What a tiny file may claim at no risk: a blank picture of 32 megapixels.
_HARMLESS = 1 << 25


def refuse_claim(claimed: int, stored: int, packed: bool) -> None:
    """Refuse a file whose header claims more than its bytes can hold.

    There is no limit on what is large, only on what is impossible: tiny files that claim terabytes.

    Args:
        claimed: bytes that the header claims, once they are unpacked.
        stored: bytes that there are.
        packed: whether these are compressed.

    Raises:
        ValueError: there are too few of them.

    >>> refuse_claim(10**9, stored=10**6, packed=True)
    >>> refuse_claim(10**9, stored=10**5, packed=True)
    Traceback (most recent call last):
        ...
    ValueError: its size must be one that the 100000 bytes stored can hold. Received a header that claims \
1000000000 bytes
    """
    if claimed > (max(_TIGHTEST * stored, _HARMLESS) if packed else stored):
        raise ValueError(
            f"its size must be one that the {stored} bytes stored can hold. Received a header that claims "
            f"{claimed} bytes"
        )
