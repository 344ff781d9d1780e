# docker build -t project . && docker run -v ./mlruns:/app/mlruns project
FROM python:3.11-slim
WORKDIR /app
COPY requirements.lock .
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY project project
COPY configs configs
RUN useradd --create-home user && mkdir mlruns && chown user mlruns
USER user
VOLUME /app/mlruns
CMD ["python", "-m", "project.fit"]
