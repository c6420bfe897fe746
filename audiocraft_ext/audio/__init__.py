"""Audio files: read any, write wav and mp3, normalize, resample, download an upload. Knows nothing of models."""
