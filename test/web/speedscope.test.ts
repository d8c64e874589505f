// SPDX-License-Identifier: Apache-2.0
/** The Chrome trace export in the real speedscope: it complains on the console about slices that do not lie in each other. */
import { readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { type Browser, chromium } from 'playwright-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { perfetto } from '../../server/trace/export/perfetto.ts'
import { TraceReader } from '../../server/trace/reader.ts'
import { bootRecording, folder } from '../unit/trace/synthetic.ts'
import { CHROMIUM, CHROMIUM_ARGUMENTS } from './browser.ts'

const app = join(dirname(createRequire(import.meta.url).resolve('speedscope/package.json')), 'dist/release/index.html')
const recordings = fileURLToPath(new URL('../unit/trace/recordings', import.meta.url))

let browser: Browser

beforeAll(async () => {
  // speedscope draws with WebGL.
  const args = CHROMIUM_ARGUMENTS.filter(argument => argument !== '--disable-gpu')
  browser = await chromium.launch({
    executablePath: CHROMIUM,
    args: [...args, '--use-gl=angle', '--use-angle=swiftshader'],
  })
}, 180_000)

afterAll(() => browser?.close())

/** speedscope's own format, as far as it is looked at. */
interface Profile {
  readonly name: string
  readonly unit: string
  readonly events: readonly { readonly type: 'O' | 'C'; readonly frame: number; readonly at: number }[]
}

interface Saved {
  readonly profiles: readonly Profile[]
  readonly shared: { readonly frames: readonly { readonly name: string }[] }
}

/** Has speedscope read a file, and save what it read. */
async function opened(trace: string): Promise<{ complaints: string[]; saved: Saved }> {
  const page = await browser.newPage({ acceptDownloads: true })
  try {
    const complaints: string[] = []
    page.on('pageerror', error => complaints.push(String(error)))
    page.on('console', message => {
      if (['warning', 'error'].includes(message.type())) complaints.push(message.text())
    })
    await page.goto(pathToFileURL(app).href)
    await page.setInputFiles('input[type=file]', {
      name: 'trace.json',
      mimeType: 'application/json',
      buffer: Buffer.from(trace),
    })
    await page.getByText('Time Order').waitFor()
    const [download] = await Promise.all([page.waitForEvent('download'), page.keyboard.press('Control+s')])
    const saved = JSON.parse(await text(await download.createReadStream())) as Saved
    return { complaints, saved }
  } finally {
    await page.close()
  }
}

/** Slices at the outermost level: name, and begin and end in ns since the first. */
function outermost(profile: Profile | undefined, { shared }: Saved): (readonly [string, number, number])[] {
  const stack: { frame: number; at: number }[] = []
  const found: (readonly [string, number, number])[] = []
  for (const { type, frame, at } of profile?.events ?? []) {
    const ns = Math.round(at * 1000)
    if (type === 'O') stack.push({ frame, at: ns })
    else {
      const begun = stack.pop()
      expect(begun?.frame).toBe(frame)
      const name = shared.frames[frame]?.name.replace(/ \{.*/s, '') ?? ''
      if (stack.length === 0) found.push([name, begun?.at ?? Number.NaN, ns])
    }
  }
  expect(stack).toEqual([])
  return found
}

function expectVcpu0(reader: TraceReader, saved: Saved): void {
  const traps = [...reader.records()].flatMap(record =>
    record.kind === 'trap' && record.cpu === 0 && record.duration > 0 ? [record] : [],
  )
  const first = traps[0]?.start ?? 0
  const vcpu = saved.profiles.find(({ name }) => name.includes('vCPU 0'))
  expect(vcpu?.unit).toBe('microseconds')
  expect(outermost(vcpu, saved).map(([, begin, end]) => [begin, end])).toEqual(
    traps.map(({ start, duration }) => [start - first, start - first + duration]),
  )
}

const exported = (reader: TraceReader): string => [...perfetto(reader.header, reader.records())].join('')

test.each(readdirSync(recordings).filter(name => name.startsWith('6.12')))('the real boot %s', async name => {
  const reader = TraceReader.open(join(recordings, name))
  const { complaints, saved } = await opened(exported(reader))
  expect(complaints).toEqual([])
  expectVcpu0(reader, saved)
})

test('a boot whose accesses take no time', async () => {
  const path = join(folder(), 'boot')
  await bootRecording(path)
  const reader = TraceReader.open(path)
  const { complaints, saved } = await opened(exported(reader))
  expect(complaints).toEqual([])
  expectVcpu0(reader, saved)
})

test('speedscope says what is wrong', async () => {
  const at = { pid: 1, tid: 1, ph: 'X', args: {} }
  const { complaints } = await opened(
    JSON.stringify({
      traceEvents: [
        { ...at, ts: 1, dur: 5, name: 'a' },
        { ...at, ts: 3, dur: 5, name: 'b' },
      ],
    }),
  )
  expect(complaints).toContainEqual(expect.stringContaining('Tried to end'))
})
