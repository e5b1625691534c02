"""Define the operators that move blocks of pixels into channels and back, for targets that lack them for a type."""

from __future__ import annotations

from compiler.rewrite import NUMBERS, Rule


class DefineDepthToSpace(Rule):
    """DepthToSpace of mode DCR spreads blocks of ``R x R`` channels over the image, blocks outermost."""

    stage = "expand"
    before = "%y: T[N,C,P,Q] = DepthToSpace(%x: T[N,K,H,W]) {blocksize = R}"
    after = """
        %b = Reshape(%x, [N,R,R,C,H,W])
        %t = Transpose(%b) {perm = [0, 3, 4, 1, 5, 2]}
        %y = Reshape(%t, [N,C,P,Q])
    """
    types = {"T": NUMBERS}
    domain = {"R": "1..3", "K": "36"}


class DefinePixelShuffle(Rule):
    """DepthToSpace of mode CRD spreads blocks of ``R x R`` channels over the image, channels outermost."""

    stage = "expand"
    before = '%y: T[N,C,P,Q] = DepthToSpace(%x: T[N,K,H,W]) {blocksize = R, mode = "CRD"}'
    after = """
        %b = Reshape(%x, [N,C,R,R,H,W])
        %t = Transpose(%b) {perm = [0, 1, 4, 2, 5, 3]}
        %y = Reshape(%t, [N,C,P,Q])
    """
    types = {"T": NUMBERS}
    domain = {"R": "1..3", "K": "36"}


class DefineSpaceToDepth(Rule):
    """SpaceToDepth collects blocks of ``R x R`` pixels in channels, blocks outermost."""

    stage = "expand"
    before = "%y: T[N,K,P,Q] = SpaceToDepth(%x: T[N,C,H,W]) {blocksize = R}"
    after = """
        %b = Reshape(%x, [N,C,P,R,Q,R])
        %t = Transpose(%b) {perm = [0, 3, 5, 1, 2, 4]}
        %y = Reshape(%t, [N,K,P,Q])
    """
    types = {"T": NUMBERS}
    domain = {"R": "1..3", "H": "6", "W": "6"}
