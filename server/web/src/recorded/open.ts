// SPDX-License-Identifier: Apache-2.0
/** Recordings that are open in this page: read here, whether they came with the page, from the server, or were dropped on it. */
import { batch, computed, signal } from '@preact/signals'
import type { RecordedFile, Recording } from '../../../recorded/recording.ts'

/** Bytes that a file may unpack to. */
const MOST = 256 << 20
const GZIP = [0x1f, 0x8b]
/** Elements in which a page carries recordings: base64, and JSON about it. */
const EMBEDDED = 'script[type="application/x-smmu-cosim-recording"]'

export const recordings = signal<readonly Recording[]>([])
const chosen = signal(0)
/** The one that all views show; undefined: they show a machine. */
export const recording = computed(() => recordings.value[chosen.value])
/** Row of the moment that is shown. */
export const moment = signal(0)
/** Changes with what is shown. */
export const shown = computed(() => (recording.value === undefined ? 'live' : `${chosen.value} ${moment.value}`))
/** What is being read, and how far it has come. */
export const reading = signal<{ readonly name: string; readonly rows: number } | undefined>(undefined)
/** Why something was not opened. */
export const refused = signal<string | undefined>(undefined)

/** The page was made for its recordings: there is no server behind it. */
export const alone = document.querySelector(EMBEDDED) !== null

/** @param at where the recording stands */
function show(index: number, at: number): void {
  const now = recordings.value[index]
  now?.seek(at)
  batch(() => {
    chosen.value = index
    moment.value = now?.row ?? 0
  })
}

/** Shows another of the open recordings. @param trap and goes to it */
export function choose(index: number, trap?: number): void {
  const found = recordings.value[index]
  if (found === undefined) return
  show(index, (trap === undefined ? undefined : found.rowOf(trap)) ?? found.row)
}

export function seek(row: number): void {
  const now = recording.peek()
  if (now === undefined) return
  now.seek(row)
  moment.value = now.row
}

/** As many bytes as may be read. @returns also whether there are more */
async function limited(
  stream: ReadableStream<Uint8Array>,
): Promise<{ readonly bytes: Uint8Array; readonly whole: boolean }> {
  const parts: Uint8Array[] = []
  let length = 0
  const reader = stream.getReader()
  let whole = true
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) break
      parts.push(value)
      length += value.length
      if (length <= MOST) continue
      whole = false
      await reader.cancel()
      break
    }
  } catch {
    // Compressed data that is cut off: what came before it counts.
    whole = false
  }
  const bytes = new Uint8Array(length)
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return { bytes, whole }
}

async function unpacked(blob: Blob): Promise<{ readonly bytes: Uint8Array; readonly whole: boolean }> {
  const start = new Uint8Array(await blob.slice(0, 2).arrayBuffer())
  const packed = start[0] === GZIP[0] && start[1] === GZIP[1]
  const stream = blob.stream()
  return limited(packed ? stream.pipeThrough(new DecompressionStream('gzip')) : stream)
}

/** Opens a file beside those that are open, and shows it. @param about what is known of it besides */
export async function open(name: string, blob: Blob, about: Omit<RecordedFile, 'name' | 'bytes'> = {}): Promise<void> {
  reading.value = { name, rows: 0 }
  refused.value = undefined
  try {
    const [{ bytes, whole }, engine] = await Promise.all([unpacked(blob), import('./engine.ts')])
    const cut = whole ? about.cut : `of the file only the first ${bytes.length >> 20} MiB could be read`
    const file = { name, bytes, ...about, ...(cut !== undefined && { cut }) }
    const read = await engine.Recording.read(file, rows => {
      reading.value = { name, rows }
    })
    batch(() => {
      recordings.value = [...recordings.value, read]
      show(recordings.value.length - 1, read.row)
    })
  } catch (error) {
    refused.value = (error as Error).message
  } finally {
    reading.value = undefined
  }
}

/** Shows the machine again. */
export function close(): void {
  batch(() => {
    recordings.value = []
    chosen.value = 0
    moment.value = 0
  })
}

/** Of base64. */
const decoded = (text: string): Uint8Array<ArrayBuffer> => Uint8Array.from(atob(text), c => c.charCodeAt(0))

/** Opens what the page carries. */
export async function openEmbedded(): Promise<void> {
  for (const element of document.querySelectorAll<HTMLScriptElement>(EMBEDDED)) {
    const about = JSON.parse(new TextDecoder().decode(decoded(element.dataset.about ?? ''))) as Omit<
      RecordedFile,
      'bytes'
    >
    const { name, ...rest } = about
    await open(name, new Blob([decoded(element.textContent.trim())]), rest)
  }
  choose(0)
}
