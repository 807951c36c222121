"""Peak memory of an upscale, in a process of its own, and whether it grows over many.

    python benchmarks/memory.py [--width 1024] [--height 768] [--pictures 1] [--quality balanced]

With --pictures, that many are upscaled in a row, and the peak after each tenth of them is printed.
"""

import argparse
import resource
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument("--pictures", type=int, default=1)
    parser.add_argument("--quality", default="balanced")
    parser.add_argument("--instances", action="store_true")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()

    from PIL import Image

    from instancersr.loading import load_upscaler

    source = Image.open(__file__.replace("benchmarks/memory.py", "examples/cat.jpg"))
    picture = source.resize((arguments.width, arguments.height))
    upscaler = load_upscaler(threads=arguments.threads)
    start = time.perf_counter()
    for number in range(1, arguments.pictures + 1):
        out = upscaler(picture, seed=number, quality=arguments.quality, instances=arguments.instances)
        if number * 10 % arguments.pictures == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{number} pictures, {arguments.width}x{arguments.height} -> {out.images[0].width}x"
                  f"{out.images[0].height}: peak {peak:.0f} MiB, {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
