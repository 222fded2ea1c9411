"""Images → frozen vectors: backbones, extraction, vector store, FAISS index, search, near duplicates and export."""
