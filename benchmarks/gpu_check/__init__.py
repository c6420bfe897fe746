"""``make gpu-check``: what a GPU shows of correctness and speed in nine minutes, on a machine with torch and Triton."""
