"""Speed, memory and mIoU of the same artefacts, side by side, from one run.

``benchmark.run`` measures, ``benchmark.result`` is what comes of it.
"""
