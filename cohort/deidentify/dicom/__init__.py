"""DICOM files without identifiers: attributes by list, texts by known words, pixels with masked text."""
