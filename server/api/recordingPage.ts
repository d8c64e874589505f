// SPDX-License-Identifier: Apache-2.0
/**
 * Recordings as one file of HTML: the dashboard in one piece, and the recordings as data in it. It opens from the disk, needs no
 * network, and may be handed on. Nothing of a recording becomes markup or code: all of it stands there in base64, and the page's
 * own policy lets in no script but the one that it was made with.
 */
import { createHash, randomBytes } from 'node:crypto'
import { promisify } from 'node:util'
import { gzip } from 'node:zlib'
import { beginning } from '../trace/cut.ts'
import type { TraceReader } from '../trace/reader.ts'
import { pcOf, type Symbols } from '../trace/symbols.ts'
import { escaped } from '../trace/terminal.ts'
import { buildPage } from './webBuild.ts'

export interface EmbeddedRecording {
  /** What the page calls it. */
  readonly name: string
  readonly reader: TraceReader
  /** Of its kernel, if that is known. */
  readonly symbols?: Symbols | undefined
}

/** Names of functions that a page carries. */
const MOST_NAMES = 10_000

/** Kernel functions of its traps, by PC. */
function functions(reader: TraceReader, symbols: Symbols): Record<string, string> {
  const found: Record<string, string> = {}
  let count = 0
  for (const record of reader.records()) {
    if (record.kind !== 'trap' || count >= MOST_NAMES) continue
    const pc = pcOf(record)
    const key = `0x${pc.toString(16)}`
    if (pc === 0n || Object.hasOwn(found, key)) continue
    const name = symbols.find(pc)?.name
    if (name === undefined) continue
    found[key] = name
    count++
  }
  return found
}

const base64 = (data: string | Uint8Array): string => Buffer.from(data as string).toString('base64')

/**
 * In a script element nothing may look like its end, nor like a comment of HTML. Control characters stand in strings alone, and there as
 * escapes: neither HTML nor standard output leaves all of them as they are, and then the page's policy refuses the script.
 */
const inScript = (code: string): string => escaped(code.replaceAll(/<(?=\/script|!--)/gi, '\\x3c'))

/**
 * @param most bytes of each recording, before they are packed
 * @param signal ends the work; nothing is left behind
 * @returns the page, and for each recording the number of its last trap if it is not all there
 */
export async function recordingPage(
  recordings: readonly EmbeddedRecording[],
  most: number,
  say: (line: string) => void,
  signal?: AbortSignal,
): Promise<{ readonly html: string; readonly cut: readonly (number | undefined)[] }> {
  const { script, style } = await buildPage(say)
  const nonce = randomBytes(16).toString('base64')
  const code = inScript(script)
  const policy = [
    "default-src 'none'",
    `script-src 'sha256-${createHash('sha256').update(code).digest('base64')}'`,
    `style-src 'nonce-${nonce}'`,
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
  ].join('; ')
  const data: string[] = []
  const cut: (number | undefined)[] = []
  for (const { name, reader, symbols } of recordings) {
    const { bytes, last, whole } = await beginning(reader, most, signal)
    cut.push(whole ? undefined : last)
    const about = {
      name,
      ...(symbols && { functions: functions(reader, symbols) }),
      ...(!whole && { cut: `only the beginning is here, up to trap ${last}: this page was made with a limit` }),
    }
    data.push(
      `<script type="application/x-smmu-cosim-recording" data-about="${base64(JSON.stringify(about))}">${base64(await packed(bytes))}</script>`,
    )
  }
  const html = `<!doctype html>
<html lang="en" data-theme="dark">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="csp-nonce" content="${nonce}">
<meta name="color-scheme" content="dark light">
<title>smmu-cosim</title>
<link rel="icon" href="data:,">
<style nonce="${nonce}">${style.replaceAll('</', '<\\/')}</style>
</head>
<body>
<div id="app"></div>
<noscript>This page shows a recording, and needs JavaScript to do so.</noscript>
${data.join('\n')}
<script>${code}</script>
</body>
</html>
`
  return { html, cut }
}

const packed = promisify(gzip)
