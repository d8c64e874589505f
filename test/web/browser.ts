// SPDX-License-Identifier: Apache-2.0
import type { Browser, Page } from 'playwright-core'

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

/**
 * A page of the usual size.
 * @param complaints where errors of its scripts, and those on its console, are put
 * @param stepMs for each step on it
 */
export async function newPage(browser: Browser, complaints: string[], stepMs: number): Promise<Page> {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 } })
  page.setDefaultTimeout(stepMs)
  page.on('pageerror', error => complaints.push(String(error)))
  page.on('console', message => {
    if (message.type() === 'error') complaints.push(message.text())
  })
  return page
}

/**
 * What a page complained about, without what the browser itself says of a server that is away: a connection that is
 * refused or closed, with a request on it that was never answered (`ERR_EMPTY_RESPONSE`), or a WebSocket that ends.
 */
export const withoutServerAway = (complaints: readonly string[]): string[] =>
  complaints.filter(
    text => !/net::ERR_(CONNECTION_|EMPTY_RESPONSE|INCOMPLETE_CHUNKED|SOCKET_)|WebSocket connection/.test(text),
  )
