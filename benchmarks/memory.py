"""Peak memory of one upscale, in a process of its own.

    python benchmarks/memory.py [--width 1024] [--height 768] [--threads 2]
"""

import argparse
import os
import resource
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

    from PIL import Image
    from skimage import data

    import instancersr

    picture = Image.fromarray(data.astronaut()).resize((arguments.width, arguments.height))
    start = time.perf_counter()
    out = instancersr.InstanceRSRPipeline.from_pretrained("builtin")(picture)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = "{}x{}".format(*out.images[0].size)
    print(f"{arguments.width}x{arguments.height} -> {size}: peak {peak:.2f} GiB, {seconds:.0f} s, "
          f"{arguments.threads} threads")


if __name__ == "__main__":
    main()
