# A search page over a folder of photos; docs/container.md says how to run it.
FROM python:3.12-slim AS build
# serve,heic,gpu computes by CUDA, whose libraries pip brings along.
ARG EXTRAS=serve,heic
WORKDIR /source
COPY LICENSE README.md constraints-py312.txt pyproject.toml setup.py ./
COPY configs configs
COPY delf_jax delf_jax
RUN python -m venv /opt/delf_jax
RUN /opt/delf_jax/bin/python -m pip install --no-cache-dir \
    -c constraints-py312.txt ".[${EXTRAS}]"
# Compiled programs are kept there, by whichever user.
RUN mkdir -m 1777 /cache

FROM python:3.12-slim
COPY --from=build /opt/delf_jax /opt/delf_jax
COPY --from=build /cache /cache
ENV PATH=/opt/delf_jax/bin:$PATH HOME=/cache
VOLUME /cache
WORKDIR /data
USER 1000:1000
EXPOSE 8000
ENTRYPOINT ["delf_jax"]
CMD ["serve", "--index=index", "--host=0.0.0.0"]
