"""A public bucket on this machine, and an index of what is in it, so that the real client runs without network."""

import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pyarrow as pa
import pyarrow.parquet as pq

BUCKET = "idc-open-data"
CITED = {"license_short_name": "CC BY 3.0", "source_DOI": "10.1/data"}


class LocalBucket:
    """Objects by key, keys that are refused, and the keys that were asked for."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.refused: set[str] = set()
        self.requests: list[str] = []
        self.may_finish = threading.Event()  # while it is clear, the end of every object is held back
        self.may_finish.set()
        self.endpoint = ""

    def add_series(
        self, patient: str, modality: str, number: int, num_files: int, analysis: str | None = None
    ) -> dict:
        """Put a series into the bucket; return its row of the index."""
        uuid = f"uuid-{patient}-{modality}-{number}"
        files = {f"{uuid}/{index}.dcm": f"{uuid} {index} ".encode() * (200 + index) for index in range(num_files)}
        self.objects |= files
        return CITED | {
            "collection_id": "lidc_idri",
            "analysis_result_id": analysis or None,
            "PatientID": patient,
            "StudyInstanceUID": f"1.{patient[-4:]}",
            "SeriesInstanceUID": f"1.{patient[-4:]}.{modality}.{number}",
            "Modality": modality,
            "instanceCount": num_files,
            "series_size_MB": sum(map(len, files.values())) / 1e6,
            "aws_bucket": BUCKET,
            "series_aws_url": f"s3://{BUCKET}/{uuid}/*",
        }

    def fetched(self) -> list[str]:
        """Keys of the objects that were downloaded."""
        return sorted(key for key in self.requests if key in self.objects)


def write_index(path: Path, rows: list[dict]) -> Path:
    """An index with the columns that the client and we read."""
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@contextmanager
def serve(bucket: LocalBucket):
    """Answer as S3 does: list by prefix, get an object."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(b"")

        def do_GET(self):
            parts = urlparse(self.path)
            key = parts.path.removeprefix(f"/{BUCKET}").lstrip("/")
            if not key:
                self.answer(listing(bucket, parse_qs(parts.query).get("prefix", [""])[0]))
                return
            bucket.requests.append(key)
            if key in bucket.refused:
                # In S3's own words: any other answer the client would try again for a minute.
                self.answer(b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>", 403)
            else:
                self.answer(bucket.objects[key])

        def answer(self, body: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:100])
            self.wfile.flush()
            if self.path.endswith(".dcm"):
                bucket.may_finish.wait(30)
            with suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(body[100:])

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    bucket.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()


def listing(bucket: LocalBucket, prefix: str) -> bytes:
    entries = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2020-01-01T00:00:00.000Z</LastModified><ETag>x</ETag>"
        f"<Size>{len(content)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for key, content in bucket.objects.items()
        if key.startswith(prefix)
    )
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
    ).encode()
