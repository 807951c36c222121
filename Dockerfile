# InstanceRSR on a processor.
#   docker build -t instancersr .
#   docker run --rm -v "$PWD":/photos instancersr upscale holiday.jpg
# With --build-arg TORCH="torch --index-url INDEX", INDEX being that of torch's builds without CUDA (see torch's site), the
# image is a fifth of the size.
FROM python:3.12-slim
ARG TORCH=torch
# the version that the image says it is: git's folder, which knows, is not copied
ARG SETUPTOOLS_SCM_PRETEND_VERSION
COPY pyproject.toml README.md LICENSE /src/
COPY instancersr /src/instancersr
RUN pip install --no-cache-dir $TORCH && pip install --no-cache-dir '/src[heif]' && rm -r /src
RUN useradd --create-home photographer
USER photographer
WORKDIR /photos
ENTRYPOINT ["instancersr"]
CMD ["--help"]
