"""Images to frozen vectors: backbones, extraction, the vector store, the FAISS index and search."""
