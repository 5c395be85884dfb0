#!/bin/sh
# Plain curl: sh explain.sh PICTURE [http://localhost:8000] [MODEL]
set -eu
picture=$1
url=${2:-http://localhost:8000}
model=${3:-demo}

# Likeliest classes and what was explained, as JSON.
curl --silent --show-error --fail-with-body --data-binary "@$picture" "$url/v2/models/$model/explain?maps=none"
echo

# The picture under its map.
curl --silent --show-error --fail-with-body --data-binary "@$picture" --header 'Accept: image/png' \
  --output explained.png "$url/v2/models/$model/explain"
echo "wrote explained.png"
