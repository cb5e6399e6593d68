"""Bad inputs and the status that each must get, made on the fly: `python -m tests.hardening.corpus` lists them.

Three kinds: files that are no picture or a broken one, requests whose query, headers or form is wrong, and pictures
that lie about their size. None of them may cost more than a moment, and none may be the service's fault.
"""

import itertools
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from tests.pictures import encode, photo, png


@dataclass(frozen=True)
class Bad:
    """A request: to `path`, with the status that it must get; several where either is right."""

    name: str
    status: tuple[int, ...]
    path: str = "/classify"
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"


def corpus() -> list[Bad]:
    """All of them."""
    return [*_no_pictures(), *_broken(), *_liars(), *_queries(), *_headers(), *_forms(), *_paths()]


def _small() -> Image.Image:
    return photo().resize((96, 64))


def _no_pictures() -> Iterator[Bad]:
    rng = np.random.default_rng(7)
    yield Bad("empty", (400,))
    texts = {
        "text": b"hello",
        "json": b'{"image": 1}',
        "html": b"<!doctype html><title>x</title>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
        "zip": b"PK\x03\x04" + bytes(100),
        "gzip": b"\x1f\x8b\x08\x00" + bytes(50),
        "elf": b"\x7fELF" + bytes(60),
        "script": b"#!/bin/sh\nexit 0\n",
        "tiff": b"II*\x00\x08\x00\x00\x00" + bytes(40),
        "psd": b"8BPS\x00\x01" + bytes(40),
        "ico": b"\x00\x00\x01\x00\x01\x00" + bytes(40),
        "heif": b"\x00\x00\x00\x18ftypheic" + bytes(40),
        "avif": b"\x00\x00\x00\x18ftypavif" + bytes(40),
        "wav": b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(40),
        "mp4": b"\x00\x00\x00\x18ftypisom" + bytes(40),
        "jpeg2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(40),
        "zeros": bytes(4096),
        "ones": b"\xff" * 4096,
        "one-byte": b"\x00",
        "newline": b"\n",
        "url": b"http://169.254.169.254/latest/meta-data",
        "file-url": b"file:///etc/passwd",
        "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins",
        "npy": b"\x93NUMPY\x01\x00v\x00",
    }
    yield from (Bad(f"no picture: {name}", (415,), body=body) for name, body in texts.items())
    for size in (2, 3, 7, 16, 100, 5000):
        yield Bad(f"no picture: {size} random bytes", (415,), body=b"\x01" + rng.bytes(size))


def _broken() -> Iterator[Bad]:
    """Real pictures cut off, and nothing but the first bytes of one."""
    kinds = {kind: encode(_small(), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP")}
    for kind, data in kinds.items():
        for share in (0.05, 0.2, 0.4, 0.6, 0.8):
            cut = data[: max(16, int(share * len(data)))]
            yield Bad(f"{kind} cut at {share:.0%}", (422,), body=cut)
        for length in (4, 8, 12, 20, 30):
            yield Bad(f"{kind} of {length} bytes", (415, 422), body=data[:length])
        for path in ("/depth", "/compare/classify", "/compare/depth"):
            yield Bad(f"{kind} cut, {path}", (422,), path=path, body=data[: len(data) // 2])
        yield Bad(f"{kind} declared as text", (415,), body=data, headers={"content-type": "text/plain"})
        yield Bad(f"{kind} declared as video", (415,), body=data, headers={"content-type": "video/mp4"})
    whole = kinds["PNG"]
    yield Bad("PNG without IDAT", (422,), body=whole[:33] + whole[-12:])
    yield Bad("PNG whose chunks' sum is wrong", (422,), body=whole[:29] + b"\0\0\0\0" + whole[33:])
    yield Bad("PNG with a compressed stream of noise", (422,), body=_png_of(96, 64, b"\xde\xad" * 50))
    for color, depth in ((0, 3), (2, 4), (1, 8), (5, 8), (7, 8), (3, 16)):
        yield Bad(f"PNG of colour {color}, depth {depth}", (422,), body=png(4, 4, depth, color, bytes(100)))


def _png_of(width: int, height: int, data: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _liars() -> Iterator[Bad]:
    """Decompression bombs: a header of more pixels than the limit, or less data than the header says."""
    for width, height in ((50_000, 50_000), (2**31 - 1, 2**31 - 1), (2**30, 1), (1, 2**30), (10_000, 6_000)):
        yield Bad(f"PNG of {width}x{height}", (413, 422), body=png(width, height, 8, 2, bytes(1000)))
        yield Bad(f"PNG of {width}x{height}, grey", (413, 422), path="/depth", body=png(width, height, 8, 0, bytes(9)))
    for width, height in ((0, 0), (0, 10), (10, 0)):
        yield Bad(f"PNG of {width}x{height}", (422,), body=png(width, height, 8, 2, bytes(10)))
    for width, height in ((30_000, 30_000), (65_535, 65_535)):
        yield Bad(f"GIF of {width}x{height}", (413,), body=b"GIF89a" + struct.pack("<HH", width, height) + bytes(40))
        bmp = bytearray(encode(_small(), "BMP"))
        bmp[18:26] = struct.pack("<ii", width, height)
        yield Bad(f"BMP of {width}x{height}", (413,), body=bytes(bmp))
        jpeg = bytearray(encode(_small(), "JPEG"))
        frame = jpeg.index(b"\xff\xc0")
        jpeg[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
        yield Bad(f"JPEG of {width}x{height}", (413,), body=bytes(jpeg))
    bomb = zlib.compress(bytes(30_000_000), 9)
    yield Bad("PNG of 30 MB of zeros in 30 kB, 9 pixels", (200, 422), body=_png_of(3, 3, bomb))
    yield Bad("PNG of 8000x8000 in 200 kB", (413,), body=png(8000, 8000, 8, 2, bytes(8000 * 24001)))
    text = zlib.compress(b"A" * 20_000_000, 9)
    chunk = (b"zTXt", b"Comment\0\0" + text)
    yield Bad("PNG with a comment that grows to 20 MB", (200, 422), body=png(4, 4, 8, 2, bytes(4 * 13), chunk))


_QUERIES = {
    "/classify": {
        "top_k": ("0", "-1", "1001", "1e3", "x", "", "9" * 400, "5;drop", "NaN", "1.5"),
        "min_probability": ("-0.1", "1.1", "nan", "inf", "x", ""),
        "model": (),
        "nonsense": ("1",),
        "Top_k": ("3",),
    },
    "/depth": {
        "format": ("jpeg", "", "JSON", "png16\x00"),
        "size": ("huge", "", "original "),
        "fx": ("0", "-1", "nan", "inf", "1e7", "x", ""),
        "top_k": ("3",),
    },
    "/compare/classify": {"top_k": ("0", "x"), "variant": ("binary",)},
    "/compare/depth": {"fx": ("0", "inf"), "format": ("npy",)},
}


def _queries() -> Iterator[Bad]:
    body = encode(_small(), "PNG")
    for path, parameters in _QUERIES.items():
        for name, values in parameters.items():
            for value in values:
                query = f"{path}?{name}={_quoted(value)}"
                yield Bad(f"{path} {name}={value[:20]!r}", (422,), path=query, body=body)
    for path, names in itertools.product(("/classify", "/depth"), (("model", "unknown"), ("variant", "unknown"))):
        for value in ("x", "..", "../../etc/passwd", "a" * 300, "%00", "tiny-colours@99", "\u202e", "' OR 1=1 --"):
            yield Bad(f"{path} {names[0]}={value[:20]!r}", (404, 422), f"{path}?{names[0]}={_quoted(value)}", body)
    yield Bad("/compare/classify of an unknown variant", (404,), "/compare/classify?a=quantised", body)
    yield Bad("binary of a full-precision model", (422,), "/classify?model=tiny-colours&variant=binary", body)
    yield Bad("a depth model for classes", (404,), "/classify?model=tiny-ramp", body)


def _quoted(value: str) -> str:
    return "".join(f"%{byte:02X}" for byte in value.encode())


def _headers() -> Iterator[Bad]:
    body = encode(_small(), "PNG")
    for value in ("0", "-5", "1.5", "soon", "", "1e3", "9" * 30, "0x10", "null", "\u00b2".encode().hex() + "x"):
        yield Bad(f"x-timeout-ms {value!r}", (422,), body=body, headers={"x-timeout-ms": value})
    for accept in ("text/html", "image/webp", "application/xml", "image/png;q=0", "video/*"):
        yield Bad(f"/depth Accept {accept!r}", (406,), path="/depth", body=body, headers={"accept": accept})
    for kind in ("text/html", "application/xml", "application/pdf", "audio/mpeg", "x/y", "multipart/mixed; boundary=x"):
        yield Bad(f"Content-Type {kind!r}", (415,), body=body, headers={"content-type": kind})


def _forms() -> Iterator[Bad]:
    picture = encode(_small(), "PNG")

    def form(*parts: bytes, end: bytes = b"--x--\r\n") -> bytes:
        return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + end

    def part(name: bytes, content: bytes, file: bytes = b'; filename="a.png"') -> bytes:
        return b'Content-Disposition: form-data; name="' + name + b'"' + file + b"\r\n\r\n" + content

    good = {"content-type": "multipart/form-data; boundary=x"}
    bodies: dict[str, tuple[tuple[int, ...], bytes]] = {
        "no body": ((400,), b""),
        "only the end": ((400,), b"--x--\r\n"),
        "another boundary": ((400,), form(part(b"file", picture)).replace(b"--x", b"--y")),
        "no end": ((400,), form(part(b"file", picture), end=b"")),
        "no end of the second": ((400, 413), form(part(b"file", picture), part(b"file", picture), end=b"")),
        "a part without a header": ((400,), form(b"\r\n" + picture)),
        "a header without a colon": ((400,), form(b"Content-Disposition\r\n\r\n" + picture)),
        "a part without a name": ((400,), form(b"Content-Disposition: form-data\r\n\r\n" + picture)),
        "a part of another name": ((422,), form(part(b"picture", picture))),
        "a text part": ((422,), form(part(b"file", b"text", b""))),
        "an empty file": ((400,), form(part(b"file", b""))),
        "seventeen files": ((413,), form(*[part(b"file", picture)] * 17)),
        "a thousand files": ((413,), form(*[part(b"file", b"x")] * 1000)),
        "a thousand fields": ((413,), form(*[part(b"file", b"x", b"")] * 1000)),
        "no picture inside": ((415,), form(part(b"file", b"hello"))),
        "a broken picture inside": ((422,), form(part(b"file", picture[:200]))),
        "a header of 100 kB": ((400,), form(b"X: " + b"a" * 100_000 + b"\r\n\r\n" + picture)),
        "a name of 100 kB": ((400, 422), form(part(b"n" * 100_000, picture))),
        "noise": ((400,), np.random.default_rng(3).bytes(3000)),
        "null bytes": ((400,), bytes(3000)),
        "a path as the file's name": ((415,), form(part(b"file", b"x", b'; filename="../../etc/passwd"'))),
    }
    for name, (status, body) in bodies.items():
        yield Bad(f"form: {name}", status, body=body, headers=good)
        yield Bad(f"form for /compare/depth: {name}", status, "/compare/depth", body, good)
    for kind in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "b" * 500,
        "multipart/form-data; charset=undefined; boundary=x",  # a codec that decodes nothing
    ):
        yield Bad(
            f"form of type {kind[:40]!r}", (400,), body=form(part(b"file", picture)), headers={"content-type": kind}
        )
    json_type = {"content-type": "application/json"}
    for text in ("", "{", "[]", "null", "{}", '{"image": 1}', '{"image": ""}', '{"image": "%%"}', "[" * 50_000, "\x00"):
        yield Bad(f"JSON {text[:20]!r}", (400, 422), body=text.encode(), headers=json_type)


def _paths() -> Iterator[Bad]:
    for path in (
        "/Classify",
        "/classify/",
        "//classify",
        "/.env",
        "/admin.php",
        "/ui/..%2fopenapi.json",
        "/%00",
        "/ui/",
    ):
        yield Bad(f"path {path}", (404,), path=path)
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        yield Bad(f"{method} /classify", (405,), method=method)
    for path in ("/models", "/metrics", "/healthz", "/readyz", "/"):
        yield Bad(f"POST {path}", (405,), path=path)


if __name__ == "__main__":
    for case in corpus():
        print(json.dumps({"name": case.name, "path": case.path[:80], "bytes": len(case.body), "status": case.status}))
