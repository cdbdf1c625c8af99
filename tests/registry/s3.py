"""The part of S3 that a client needs to keep objects: whole and multipart uploads, ranges, listings. In memory."""

from __future__ import annotations

import hashlib
import io
import re
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class S3(ThreadingHTTPServer):
    """`with S3() as server:` serves on loopback; `objects` holds everything, by `bucket/key`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.requests: list[str] = []
        self.fail = ""
        """Requests whose method and path match this pattern are answered with 403."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version, wbufsize, disable_nagle_algorithm = "HTTP/1.1", 1 << 20, True
    server: S3

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def handle_expect_100(self) -> bool:
        """At once: a client waits for it."""
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def _begin(self) -> tuple[str, dict[str, str]] | None:
        """The key and the query; None if the request was refused."""
        parts = urlsplit(self.path)
        self.server.requests.append(f"{self.command} {parts.path}")
        if self.server.fail and re.search(self.server.fail, self.server.requests[-1]):
            self._body()
            self._answer(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
            return None
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        return unquote(parts.path).lstrip("/"), query

    def _body(self) -> bytes:
        """What was sent, out of HTTP's chunks and then out of those of the AWS clients."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = _joined(self.rfile)
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        coded = "aws-chunked" in (self.headers.get("Content-Encoding") or "")
        return _joined(io.BytesIO(content)) if coded else content

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        length = headers.pop("length", str(len(content)))
        for name, value in {"Content-Length": length, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _object(self, key: str) -> None:
        if key.count("/") == 0:
            self._answer(200)
            return
        content = self.server.objects.get(key)
        if content is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>")
            return
        times = {"Last_Modified": "Sat, 01 Jan 2022 00:00:00 GMT", "ETag": f'"{hashlib.md5(content).hexdigest()}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted:
            begin, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            span = f"bytes {begin}-{end}/{len(content)}"
            self._answer(206, content[begin : end + 1], Content_Range=span, **times)
        else:
            self._answer(200, content, **times)

    def do_HEAD(self) -> None:
        if begun := self._begin():
            self._object(begun[0])

    def do_GET(self) -> None:
        if not (begun := self._begin()):
            return
        key, query = begun
        if "list-type" not in query:
            self._object(key)
            return
        bucket, prefix, delimiter = key.rstrip("/"), query.get("prefix", ""), query.get("delimiter", "")
        keys, folders = [], set()
        for full in sorted(self.server.objects):
            name = full.removeprefix(bucket + "/")
            if full.startswith(f"{bucket}/{prefix}"):
                rest = name[len(prefix) :]
                if delimiter and delimiter in rest:
                    folders.add(prefix + rest.split(delimiter)[0] + delimiter)
                else:
                    keys.append((name, len(self.server.objects[full])))
        files = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{size}</Size>"
            "<LastModified>2022-01-01T00:00:00.000Z</LastModified></Contents>"
            for name, size in keys[: int(query.get("max-keys", 1000))]
        )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)
        )
        count = f"<KeyCount>{len(keys) + len(folders)}</KeyCount><IsTruncated>false</IsTruncated>"
        self._answer(200, f"<ListBucketResult>{count}{files}{common}</ListBucketResult>".encode())

    def do_PUT(self) -> None:
        if not (begun := self._begin()):
            return
        key, query = begun
        content = self._body()
        if "uploadId" in query:
            self.server.uploads[query["uploadId"]][int(query["partNumber"])] = content
        elif "/" in key.rstrip("/"):
            self.server.objects[key] = content
        self._answer(200, ETag=f'"{hashlib.md5(content).hexdigest()}"')

    def do_POST(self) -> None:
        if not (begun := self._begin()):
            return
        key, query = begun
        self._body()
        if "uploads" in query:
            self.server.uploads[name := uuid.uuid4().hex] = {}
            says = f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
        else:
            parts = self.server.uploads.pop(query["uploadId"])
            self.server.objects[key] = b"".join(parts[number] for number in sorted(parts))
            says = "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
        self._answer(200, says.encode())

    def do_DELETE(self) -> None:
        if begun := self._begin():
            self.server.objects.pop(begun[0], None)
            self._answer(204)


def _joined(stream: IO[bytes]) -> bytes:
    """The chunks of a stream, without the trailers that may follow them."""
    found = b""
    while length := int(stream.readline().split(b";")[0], 16):
        found += stream.read(length)
        stream.readline()
    while stream.readline().strip():
        pass
    return found
