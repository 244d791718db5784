#!/bin/sh
# Installs the browser that the console's tests drive, where it is missing, with its driver, and a
# font with Chinese signs for the pictures.
set -eu

if command -v chromium >/dev/null 2>&1 && command -v chromedriver >/dev/null 2>&1; then exit 0; fi

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "Missing: Chromium and its driver" >&2
    echo "Debian, as root: apt-get install chromium chromium-driver fonts-noto-cjk" >&2
    echo "Homebrew:        brew install --cask chromium chromedriver" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends chromium chromium-driver fonts-noto-cjk
