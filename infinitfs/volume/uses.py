"""How often each inode is in use: by the kernel, which knows its number, and by those who have it open.

Above: `volume`. Below: nothing.
Invariant: a count is what was added less what was removed, never below zero. The kernel may know millions of inodes at
once, most of them once and with numbers that follow each other: those take some two bytes each, where a dictionary of
numbers takes a hundred.
"""

_BITS = 8
_PAGE = 1 << _BITS  # counts in one run of memory, of a byte each
_MANY = 255  # what a byte says where the count is in a dictionary, for it is that or more
_UNUSED = bytes(_PAGE)


class Uses:
    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._many: dict[int, int] = {}

    def __contains__(self, ino: int) -> bool:
        page = self._pages.get(ino >> _BITS)
        return page is not None and page[ino % _PAGE] > 0

    def add(self, ino: int, count: int = 1) -> None:
        page = self._pages.get(ino >> _BITS)
        if page is None:
            page = self._pages[ino >> _BITS] = bytearray(_PAGE)
        total = page[ino % _PAGE] + count
        if total < _MANY:
            page[ino % _PAGE] = total
        else:
            self._many[ino] = self._many.get(ino, page[ino % _PAGE]) + count
            page[ino % _PAGE] = _MANY

    def remove(self, ino: int, count: int = 1) -> bool:
        """Whether nobody uses the inode any more."""
        page = self._pages.get(ino >> _BITS)
        if page is None:
            return True
        left = self._many.pop(ino, page[ino % _PAGE]) - count
        if left >= _MANY:
            self._many[ino] = left
        else:
            page[ino % _PAGE] = max(left, 0)
        if left <= 0 and page == _UNUSED:
            del self._pages[ino >> _BITS]
        return left <= 0
