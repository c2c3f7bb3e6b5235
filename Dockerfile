# dkcam on a CPU: cameras in, the live page out. docs/live.md, "In a container", says how it is started.
# Python's packages are what locks/ names, checked by their hashes; nothing is resolved here. The base image and Debian's packages are
# the newest of their release at each build, so that their security fixes come in: rebuild it now and then, with docker build --pull.

FROM python:3.11-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY locks/build.txt locks/runtime.txt /locks/
RUN python -m venv /opt/build && /opt/build/bin/pip install --require-hashes -r /locks/build.txt
# without pip, which nothing at run time needs
RUN python -m venv --without-pip /opt/dkcam \
    && /opt/build/bin/pip --python /opt/dkcam/bin/python install --require-hashes --only-binary :all: -r /locks/runtime.txt
COPY . /src
RUN PATH=/opt/build/bin:$PATH pip wheel --no-deps --no-build-isolation --no-index -w /wheels /src \
    && /opt/build/bin/pip --python /opt/dkcam/bin/python install --no-deps --no-index /wheels/*.whl \
    && /opt/build/bin/pip --python /opt/dkcam/bin/python check \
    && /opt/dkcam/bin/python -c "from dkcam.runtime.kernels import why_not_native as why; assert not why(), why()"

FROM python:3.11-slim-bookworm
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 --groups video dkcam
COPY --from=build /opt/dkcam /opt/dkcam
ENV PATH=/opt/dkcam/bin:$PATH
USER 10001
WORKDIR /home/dkcam
EXPOSE 8080
ENTRYPOINT ["dk-run", "--headless"]
CMD ["--camera", "0", "--wait", "--sink", "http://0.0.0.0:8080"]
