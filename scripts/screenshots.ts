// SPDX-License-Identifier: Apache-2.0
/**
 * Makes the screenshots of the dashboard: boots a machine, puts it to work, and takes a picture of every view at 1280 by
 * 800, dark or light; or at another width, to be looked at.
 *
 * The view `el2` has a machine of its own: pKVM, and attacks on a protected VM.
 *
 *     node scripts/screenshots.ts [--out server/web/images] [--theme dark|light|both] [--only VIEW]
 *                                 [--width 1280] [--url URL of a server that runs] [--qemu FILE] [--chromium FILE]
 */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { chromium, type Page } from 'playwright-core'
import { MachineManager } from '../server/api/machineManager.ts'
import type { StartOptions } from '../server/api/schemas/lifecycle.ts'
import { startServer } from '../server/api/server.ts'
import { CHROMIUM_ARGUMENTS } from '../test/web/browser.ts'

const BOOT_MS = 180_000

const { values } = parseArgs({
  options: {
    out: { type: 'string', default: 'server/web/images' },
    url: { type: 'string' },
    qemu: { type: 'string' },
    chromium: { type: 'string', default: '/usr/bin/chromium' },
    only: { type: 'string' },
    theme: { type: 'string', default: 'dark' },
    width: { type: 'string', default: '1280' },
  },
})

type Step = (page: Page) => Promise<void>

/** Selects a trap with a CFGI_STE. Of a machine that has worked for a while they are not among the newest: earlier ones are asked for. */
async function selectTrap(page: Page): Promise<void> {
  const stream = page.locator('.stream')
  await page.getByLabel('Command', { exact: true }).selectOption('CFGI_STE')
  await stream.getByRole('button', { name: 'Clear' }).waitFor()
  const rows = stream.locator('.virtual .trap', { hasText: 'CFGI_STE' })
  const earlier = stream.getByRole('button', { name: 'Earlier' })
  const shown = () => rows.last().waitFor({ timeout: 500 }).then(yes, no)
  for (let tries = 0; tries < 100 && !(await shown()); tries++) if ((await earlier.count()) > 0) await earlier.click()
  await rows.last().click()
  await page.locator('.child').first().waitFor()
}

const yes = () => true
const no = () => false

/** What to do in a view before its picture is taken. */
const VIEWS: readonly (readonly [view: string, step?: Step])[] = [
  ['overview'],
  [
    'traps',
    async page => {
      // Where the kernel is has to be worked out first. A narrow window does not show it.
      const named = page.locator('.virtual .trap .function', { hasText: 'arm_smmu' }).first()
      await named.waitFor({ state: 'attached', timeout: BOOT_MS })
      await selectTrap(page)
    },
  ],
  [
    'recording',
    async page => {
      const url = new URL(page.url())
      await page.goto(new URL('/#/runs', url).href)
      await page
        .getByRole('button', { name: /^Open [0-9]/ })
        .first()
        .click()
      await page.getByRole('region', { name: 'Recording' }).waitFor({ timeout: BOOT_MS })
      await page.goto(new URL('/#/traps', url).href)
      await selectTrap(page)
      await page.waitForTimeout(500)
    },
  ],
  [
    'runs',
    async page => {
      await page
        .getByRole('button', { name: /^Replay/ })
        .first()
        .click()
      // Of a machine that runs there is no verdict yet, which is told as a failure.
      await page.locator('.runs-view').locator('pre.steps, .failure').waitFor({ timeout: BOOT_MS })
    },
  ],
  ['queues'],
  [
    'streams',
    async page => {
      await page.locator('.tree button').first().click()
      await page.locator('table.fields').first().waitFor()
    },
  ],
  [
    'translation',
    async page => {
      await page.locator('tr.link').first().click({ timeout: 15_000 })
      await page.locator('.walk .step').first().waitFor()
    },
  ],
  [
    'memory',
    async page => {
      await page.getByLabel('Address').fill('0x60000000')
      await page.getByLabel('Pages of 4 KiB').fill('2048')
      await page.waitForTimeout(2_500)
    },
  ],
  ['console'],
  [
    'breakpoints',
    async page => {
      await page.getByRole('button', { name: 'CFGI_STE', exact: true }).click()
      await page.getByRole('button', { name: 'any unexpected warning' }).click()
      await page.waitForTimeout(600)
    },
  ],
  [
    'faults',
    async page => {
      await page.getByLabel('Filter faults by text').fill('cerror')
      await page.getByRole('button', { name: /^cmdq-err-ill/ }).click()
      await page.getByRole('button', { name: 'Arm', exact: true }).click()
      await page.locator('.firings td').first().waitFor()
      await page.waitForTimeout(6_000)
    },
  ],
  [
    'held',
    async page => {
      await page.goto(page.url().replace(/#.*/, '#/queues'))
      await page.keyboard.press('b')
      await page.getByRole('alert').filter({ hasText: 'held' }).waitFor()
      await page.waitForTimeout(1_500)
    },
  ],
]

/** Of a server that has started no machine yet. */
const OFF_VIEWS: typeof VIEWS = [
  [
    'start',
    async page => {
      await page.getByRole('banner').getByRole('button', { name: 'Start' }).click()
      const dialog = page.getByRole('dialog')
      await dialog.getByText('Own files, devices, translation').click()
      await dialog.getByText('Faults from the first trap on').click()
      await dialog.getByLabel('Add a fault').selectOption('cr0ack-stuck')
    },
  ],
]

/** Of a machine with pKVM at EL2. */
const EL2_VIEWS: typeof VIEWS = [
  [
    'el2',
    async page => {
      await page.locator('table.attacks tr', { hasText: 'given back' }).waitFor({ timeout: BOOT_MS })
      await page.getByText('agree', { exact: true }).waitFor()
    },
  ],
]

/** Reads from a disk in the guest now and then, to the end: there is something to see, and faults and breakpoints have what they wait for. */
async function work(url: string): Promise<void> {
  const type = (text: string) =>
    fetch(new URL('/api/v1/machine/console', url), {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ text }),
    })
  await type('while :; do dd if=/dev/vda of=/dev/null bs=4k count=500 iflag=direct; sleep 1; done 2>/dev/null &\n')
}

/** In the guest's shell: what `boot --el2 pkvm` does after the workload. */
async function attack(url: string): Promise<void> {
  await fetch(new URL('/api/v1/machine/console', url), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ text: '. /lib/cosim/events.sh; . /lib/cosim/workload.sh; attack_vm 2\n' }),
  })
}

async function userspace(url: string): Promise<void> {
  const end = Date.now() + BOOT_MS
  for (;;) {
    const answer = await fetch(new URL('/api/v1/machine', url))
    const { phase } = (await answer.json()) as { phase: string }
    if (phase === 'userspace') return
    if (Date.now() > end) throw new Error(`the guest is at "${phase}" after ${BOOT_MS / 1000} s`)
    await new Promise(resolve => setTimeout(resolve, 300))
  }
}

/** What a picture is taken of: a machine, and what its guest is told when it has booted. */
interface Subject {
  readonly options: StartOptions
  readonly work: (url: string) => Promise<void>
}

/** Takes the pictures of views, of a machine or of a server without one. */
async function take(views: typeof VIEWS, machine?: Subject): Promise<void> {
  const wanted = views.filter(([view]) => values.only === undefined || values.only === view)
  if (wanted.length === 0) return
  let { url } = values
  let close = async () => {}
  if (url === undefined) {
    const manager = new MachineManager(values.qemu === undefined ? {} : { qemu: values.qemu })
    const server = await startServer({ manager, port: 0, say: console.error })
    url = server.url
    close = async () => {
      await manager.close()
      await server.close()
    }
    if (machine !== undefined) await manager.start(machine.options)
  }
  const browser = await chromium.launch({ executablePath: values.chromium, args: CHROMIUM_ARGUMENTS })
  try {
    if (machine !== undefined) {
      await userspace(url)
      await machine.work(url)
    }
    mkdirSync(values.out, { recursive: true })
    const themes: readonly ('dark' | 'light')[] =
      values.theme === 'both' ? ['dark', 'light'] : [values.theme === 'light' ? 'light' : 'dark']
    for (const theme of themes) {
      const page = await browser.newPage({ viewport: { width: Number(values.width), height: 800 }, colorScheme: theme })
      for (const [view, step] of wanted) {
        await page.goto(new URL(`/#/${view === 'start' ? 'overview' : view}`, url).href)
        await page.waitForTimeout(view === 'overview' ? 6_000 : 1_500)
        await step?.(page)
        await page.screenshot({ path: join(values.out, `${view}${theme === 'light' ? '-light' : ''}.png`) })
        if (view === 'held') await page.keyboard.press('F8')
        if (view === 'recording') await page.getByRole('button', { name: 'Close', exact: true }).click()
        console.log(`${view} ${theme}`)
      }
      await page.close()
    }
  } finally {
    await browser.close()
    await close()
  }
}

// The server at a URL has its machine.
if (values.url === undefined) await take(OFF_VIEWS)
await take(VIEWS, { options: { run: 'shell', power: 'keep' }, work })
await take(EL2_VIEWS, { options: { run: 'shell', el2: 'pkvm' }, work: attack })
