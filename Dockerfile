# InstanceRSR on a processor.
#   docker build -t instancersr .
#   docker run --rm -v "$PWD":/photos instancersr upscale holiday.jpg
FROM python:3.12-slim
# the version that the image says it is: git's folder, which knows, is not copied
ARG SETUPTOOLS_SCM_PRETEND_VERSION
COPY pyproject.toml README.md LICENSE /src/
COPY instancersr /src/instancersr
RUN pip install --no-cache-dir '/src[heif]' && rm -r /src
RUN useradd --create-home photographer
USER photographer
WORKDIR /photos
ENTRYPOINT ["instancersr"]
CMD ["--help"]
