# For x86-64:   docker build -t autoglm .
#               docker run -p 127.0.0.1:8080:8080 -v autoglm:/var/lib/autoglm autoglm
# For this machine's own CPU (AVX-512, AMX), faster there and broken elsewhere: --build-arg CMAKE_ARGS=
# With CUDA:    --build-arg BASE=nvidia/cuda:12.8.1-devel-ubuntu24.04 --build-arg CUDA=1, and docker run --gpus all
ARG BASE=debian:12-slim

FROM ${BASE} AS build
ARG CUDA=0
ARG CMAKE_ARGS="-DGGML_NATIVE=OFF"
WORKDIR /opt/autoglm
COPY pyproject.toml README.md LICENSE openautoglm.py ./
COPY scripts scripts
COPY agent agent
COPY cloud_sync cloud_sync
COPY models models
# install.sh brings Python and the compiler that it needs from Debian's packages.
RUN CUDA=${CUDA} CMAKE_ARGS=${CMAKE_ARGS} XDG_CACHE_HOME=/tmp/cache PYTHON=/usr/bin/python3 scripts/install.sh
# OpenMP's library moves beside llama.cpp's, which look for it there: the next stage needs no compiler's packages.
RUN cd .venv/lib/python3*/site-packages/llama_cpp/lib && cp -L "$(ldd libggml-cpu.so | awk '/omp/ { print $3 }')" .

FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libstdc++6 python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --no-log-init --uid 10001 --home-dir /var/lib/autoglm autoglm \
    && install -d -o autoglm -g autoglm /var/lib/autoglm
COPY --from=build /opt/autoglm /opt/autoglm
USER autoglm
# MODEL_NAME and MAX_BATCH_SIZE are settings of `docker run -e`, like every AUTOGLM_* variable.
# Callers that use another name than localhost for this machine: -e AUTOGLM_ALLOWED_HOSTS=name,name.
ENV PATH=/opt/autoglm/.venv/bin:$PATH \
    AUTOGLM_DATA_DIR=/var/lib/autoglm \
    AUTOGLM_HTTP_HOST=0.0.0.0 \
    AUTOGLM_HTTP_PORT=8080
VOLUME /var/lib/autoglm
EXPOSE 8080 8081
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"AUTOGLM_HTTP_PORT\"]}/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
CMD ["autoglm", "serve"]
