// SPDX-License-Identifier: Apache-2.0

/** Debian's Chromium without the things that it wants to tell the world. */
export const CHROMIUM_ARGUMENTS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

export const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium'
