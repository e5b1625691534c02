"""Cases of data movement and of changes of layout."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.cost.case import BLOCKED, Case

# Movement ----------------------------------------------------------------------------------------


def movement_cases() -> Iterator[Case]:
    """Yield them, in an order that stays the same."""
    for shape in ("1,128,12,64", "1,16,4,16", "1,197,6,64", "8,49,3,32", "1,1500,6,64", "64,49,4,32"):
        yield Case("Transpose(%x){perm = [0, 2, 1, 3]}", {"x": f"f32[{shape}]"})
        yield Case("Transpose(%x){perm = [0, 2, 3, 1]}", {"x": f"f32[{shape}]"})
    for shape in ("1,96,56,56", "1,16,14,14", "1,512,28,28"):
        yield Case("Transpose(%x){perm = [0, 2, 3, 1]}", {"x": f"f32[{shape}]"})
        yield Case("Transpose(%x){perm = [0, 3, 1, 2]}", {"x": f"f32[{shape}]"})
    for shape in ("768,128", "64,64", "1500,384"):
        yield Case("Transpose(%x){perm = [1, 0]}", {"x": f"f32[{shape}]"})
    yield Case("Transpose(%x){perm = [0, 1, 3, 2, 4, 5]}", {"x": "f32[1,8,7,8,7,96]"})
    yield Case("Transpose(%x){perm = [0, 2, 1, 3]}", {"x": "f32[1,1,384,64]"})
    yield Case("Transpose(%x){perm = [0, 1, 4, 2, 5, 3]}", {"x": "f32[1,64,2,2,64,64]"})
    yield Case("Transpose(%x){perm = [2, 0, 3, 1, 4]}", {"x": "f32[1,197,3,6,64]"})
    for shape, axis in (("1,64,56,56", 1), ("1,128,768", 2), ("1,12,128,64", 2), ("1,4", 1), ("1,12,128,32", 3)):
        yield Case(f"Concat(%x, %b){{axis = {axis}}}", {"x": f"f32[{shape}]", "b": f"f32[{shape}]"})
        half = [int(d) for d in shape.split(",")][axis] // 2
        yield Case(
            f"Split(%x, %s){{axis = {axis}}}", {"x": f"f32[{shape}]", "s": f"i64[2] = [{half}, {half}]"}, results=2
        )
        slice_ = {"x": f"f32[{shape}]", "s": "i64[1] = [0]", "e": f"i64[1] = [{half}]", "a": f"i64[1] = [{axis}]"}
        yield Case("Slice(%x, %s, %e, %a)", slice_)
    steps = {"s": "i64[1] = [0]", "e": "i64[1] = [9999]", "a": "i64[1] = [1]", "t": "i64[1] = [2]"}
    yield Case("Slice(%x, %s, %e, %a, %t)", {"x": "f32[1,56,56,96]", **steps})
    for shape, rows in (("30000,768", 128), ("512,64", 16), ("1000,8", 4096)):
        yield Case(
            "Gather(%x, %i)", {"x": f"=f32[{shape}]", "i": f"i64[1,{rows}]"}, largest=int(shape.split(",", 1)[0])
        )
    yield Case("Gather(%x, %i){axis = 1}", {"x": "f32[1,197,384]", "i": "i64[] = 0"})
    yield Case("Gather(%x, %i){axis = 0}", {"x": "i64[4]", "i": "i64[] = 0"})
    for shape in ("3,1,6,197,64", "3,64,3,49,32"):
        yield Case("Gather(%x, %i){axis = 0}", {"x": f"f32[{shape}]", "i": "i64[] = 1"})
    for shape in ("1,6,1,128", "1,1,64,64"):
        whole = "[1, 6, 128, 128]" if shape.endswith("128") else "[8, 16, 64, 64]"
        yield Case("Expand(%x, %s)", {"x": f"f32[{shape}]", "s": f"i64[4] = {whole}"})
    yield Case("Tile(%x, %s)", {"x": "f32[1,64,64]", "s": "i64[3] = [1, 4, 1]"})
    for shape in ("1,64,56,56", "1,16,14,14"):
        yield Case("Pad(%x, %p)", {"x": f"f32[{shape}]", "p": "i64[8] = [0, 0, 1, 1, 0, 0, 1, 1]"})
    for rows in (16, 128):
        yield Case("Pad(%x, %p)", {"x": f"f32[1,{rows},1024]", "p": "i64[6] = [0, 0, 0, 0, 0, 16]"})
    for channels, size in ((16, 14), (64, 56), (512, 28), (192, 112)):
        x = f"f32[1,{channels},{size},{size}]"
        yield Case(f"{BLOCKED}ReorderInput(%x)", {"x": x})
        yield Case(f"{BLOCKED}ReorderOutput(%x){{channels = {channels}}}", {"x": x})
        yield Case(f"{BLOCKED}ReorderInput(%x){{channels_last = 1}}", {"x": f"f32[1,{size},{size},{channels}]"})
        yield Case(f"{BLOCKED}ReorderOutput(%x){{channels = {channels}, channels_last = 1}}", {"x": x})
    for channels, size in ((64, 28), (256, 14)):
        x = f"f32[1,{channels},{size},{size}]"
        scales = {"x": x, "s": "f32[4] = [1.0, 1.0, 2.0, 2.0]"}
        nearest = 'coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'
        yield Case(f'Resize(%x, _, %s){{mode = "nearest", {nearest}}}', scales)
        yield Case('Resize(%x, _, %s){mode = "linear", coordinate_transformation_mode = "half_pixel"}', scales)
        yield Case('Resize(%x, _, %s){mode = "cubic", coordinate_transformation_mode = "half_pixel"}', scales)
        yield Case(f"{BLOCKED}Upsample(%x){{scales = [1, 1, 2, 2]}}", {"x": x})
        yield Case("DepthToSpace(%x){blocksize = 2}", {"x": x})
        yield Case("SpaceToDepth(%x){blocksize = 2}", {"x": x})
    yield Case("GatherElements(%x, %i){axis = 1}", {"x": "f32[64,512]", "i": "i64[64,512]"}, largest=512)
    yield Case("Trilu(%x)", {"x": "f32[1,128,128]"})
    yield Case("Reshape(%x, %s)", {"x": "f32[128,768]", "s": "i64[3] = [1, 128, 768]"}, inside=True)
    yield Case("Unsqueeze(%x, %s)", {"x": "i64[4]", "s": "i64[1] = [0]"}, inside=True)
