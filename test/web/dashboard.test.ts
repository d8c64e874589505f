// SPDX-License-Identifier: Apache-2.0
/** The dashboard in a real browser, on a machine that boots a real Linux. */
import { execFile } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { type Browser, chromium, type Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { ensureKernel } from '../../scripts/setup/index.ts'
import { MachineManager } from '../../server/api/machineManager.ts'
import { type RunningServer, startServer } from '../../server/api/server.ts'
import { TraceReader } from '../../server/trace/reader.ts'
import { machineState } from '../../server/trace/records.ts'
import { violations } from './axe.ts'
import { CHROMIUM, CHROMIUM_ARGUMENTS, newPage, withoutServerAway } from './browser.ts'

const BOOT_MS = 180_000
const VIEWS = 'overview traps queues streams translation memory console breakpoints faults el2 attack runs'.split(' ')
const STEP_MS = 30_000
const MAIN = fileURLToPath(new URL('../../server/cli/main.ts', import.meta.url))
const qemu = process.env.SMMU_COSIM_QEMU

let manager: MachineManager
let server: RunningServer
let browser: Browser
/** What the start dialog offers besides Debian's kernels. */
let images: string
let page: Page
/** What the page complained about. */
let complaints: string[]

const start = (port = 0): Promise<RunningServer> => startServer({ manager, port, say: () => {} })

beforeAll(async () => {
  if (!existsSync(CHROMIUM)) throw new Error(`${CHROMIUM} is missing: install Debian's chromium, or set CHROMIUM`)
  images = mkdtempSync(join(tmpdir(), 'cosim-images-'))
  for (const name of ['Image-own', 'initrd-own']) writeFileSync(join(images, name), '')
  // A real kernel, as somebody brings it: an image, and its modules in lib/modules beside it.
  const kernel = await ensureKernel({ kernel: '6.12' })
  copyFileSync(kernel.image, join(images, 'Image-real'))
  mkdirSync(join(images, 'lib/modules'), { recursive: true })
  symlinkSync(kernel.modules, join(images, 'lib/modules', kernel.version))
  manager = new MachineManager({ ...(qemu !== undefined && { qemu }), imagesFolder: images })
  server = await start()
  browser = await chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_ARGUMENTS })
}, BOOT_MS)

afterAll(async () => {
  await browser?.close()
  await manager?.close()
  await server?.close()
  rmSync(images, { recursive: true, force: true })
})

beforeEach(async () => {
  complaints = []
  page = await newPage(browser, complaints, STEP_MS)
})

afterEach(async () => {
  await page.close()
  expect(complaints).toEqual([])
})

const open = (view: string) => page.goto(new URL(`/#/${view}`, server.url).href)
const button = (name: string) => page.getByRole('button', { name, exact: true })
const type = (text: string) => manager.type(`${text}\n`)
const ctl = (...args: string[]) => promisify(execFile)(process.execPath, [MAIN, 'ctl', '--url', server.url, ...args])
const until = async (done: () => boolean, ms = STEP_MS): Promise<void> => {
  const end = Date.now() + ms
  while (!done()) {
    if (Date.now() > end) throw new Error(`not after ${ms / 1000} s; machine: ${JSON.stringify(manager.status())}`)
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}

test('without a machine, every view says so and offers to start one', async () => {
  await open('overview')
  await page.getByRole('status', { name: 'Machine off' }).waitFor()
  expect(await page.title()).toBe('off · smmu-cosim')
  expect(await page.getByText(/no command|commands/i).count()).toBe(0)
  for (const view of ['Overview', 'Queues', 'Streams', 'Translation', 'Memory']) {
    await page.getByRole('link', { name: new RegExp(`^${view}`) }).click()
    await page.getByText('No machine is running').waitFor()
  }
  // Faults can be looked at, but not armed.
  await page.keyboard.press('9')
  await page.locator('.armed').getByText('No machine is running').waitFor()
  await page.getByRole('button', { name: /^cr0ack-stuck/ }).click()
  expect(await button('Arm').isDisabled()).toBe(true)
  expect(await violations(page)).toEqual([])
  await page.getByRole('banner').getByRole('button', { name: 'Start' }).click()
  await page.getByRole('dialog').waitFor()
  expect(await violations(page)).toEqual([])
})

test.each([480, 1280])('the start dialog, all of it open, at %d px: nothing is beside it, or cut', async width => {
  await page.setViewportSize({ width, height: 800 })
  await open('overview')
  await page.getByRole('banner').getByRole('button', { name: 'Start' }).click()
  const dialog = page.getByRole('dialog')
  for (const more of ['Own files, devices, translation', 'Faults from the first trap on'])
    await dialog.getByText(more).click()
  await dialog.getByLabel('Add a fault').selectOption('cr0ack-stuck')
  await dialog.getByRole('button', { name: 'Without cr0ack-stuck' }).waitFor()
  const wide = await dialog.evaluate(top =>
    [top, ...top.querySelectorAll('form, details, .form, label, .buttons')]
      .filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0)
      .map(e => e.className || e.tagName),
  )
  expect(wide).toEqual([])
  const box = await dialog.boundingBox()
  for (const control of await dialog.locator('select, input, button').all()) {
    const own = await control.boundingBox()
    if (own !== null && box !== null) expect(own.x + own.width).toBeLessThanOrEqual(box.x + box.width)
  }
})

test('recordings: a policy with a long path takes no room from the run and the buttons', async () => {
  await page.route('**/recordings', route =>
    route.fulfill({
      json: {
        items: ['pkvm', `/tmp/${'a-folder-of-ones-own/'.repeat(8)}policy.ts`].map((policy, i) => ({
          ...{
            name: `2026-01-01T00-00-0${i}-000Z-aaaaaa`,
            created: '2026-01-01T00:00:00.000Z',
            policy,
            bytes: 174_797,
          },
          kernel: '6.12.117+deb13-arm64',
        })),
      },
    }),
  )
  for (const width of [480, 1280]) {
    await page.setViewportSize({ width, height: 800 })
    await open('runs')
    const scroll = page.getByRole('group', { name: 'Recordings', exact: true })
    await page
      .getByRole('button', { name: /^Replay 2026/ })
      .nth(1)
      .waitFor()
    const over = await scroll.evaluate(e => e.scrollWidth - e.clientWidth)
    // A narrow window scrolls to 600 px of table, and not to the end of the path.
    expect(over).toBeLessThanOrEqual(width === 480 ? 200 : 0)
  }
  expect(await violations(page)).toEqual([])
})

test('the start dialog: own kernel, translation, devices, faults', async () => {
  let asked: unknown
  await page.route('**/machine/start', async route => {
    asked = route.request().postDataJSON()
    await route.fulfill({ json: manager.status() })
  })
  await open('overview')
  await page.getByRole('banner').getByRole('button', { name: 'Start' }).click()
  const dialog = page.getByRole('dialog')
  await dialog.getByText('Own files, devices, translation').click()
  await dialog.getByLabel('Own kernel').selectOption('Image-own')
  await dialog.getByLabel('Own initramfs').selectOption('initrd-own')
  await dialog.getByRole('combobox', { name: /^Translation/ }).selectOption('lockstep')
  await dialog.getByLabel('NVMe controller').uncheck()
  await dialog.getByRole('checkbox', { name: 'usb-storage' }).check()
  await dialog.getByLabel(/^SMMUs/).fill('2')
  await dialog.getByLabel(/^Free slots/).fill('1')
  const level = dialog.getByLabel('BBM level')
  expect(await level.isDisabled()).toBe(true)
  await dialog.getByLabel('RAM in blocks').check()
  await level.selectOption('1')
  await dialog.getByRole('combobox', { name: /^Power/ }).selectOption('keep')
  await dialog.getByText('Faults from the first trap on').click()
  await dialog.getByLabel('Add a fault').selectOption('cr0ack-stuck')
  await dialog.getByLabel('Seed').fill('7')
  await dialog.getByRole('button', { name: 'Without cr0ack-stuck' }).waitFor()
  expect(await violations(page)).toEqual([])
  await dialog.getByRole('button', { name: 'Start', exact: true }).click()
  await expect
    .poll(() => asked)
    .toMatchObject({
      ...{ image: 'Image-own', initrd: 'initrd-own', translate: 'lockstep', nvme: false, blocks: true, bbm: 1 },
      ...{ devices: ['usb-storage'], smmus: 2, slots: 1, power: 'keep' },
      ...{ faults: ['cr0ack-stuck'], seed: 7 },
    })
})

test(
  'breakpoint on CFGI_STE, a kernel of one’s own started from the dialog, stop, look, continue',
  async () => {
    await open('breakpoints')
    await button('CFGI_STE').click()
    await page.getByText('command CFGI_STE').waitFor()
    await page.getByRole('banner').getByRole('button', { name: 'Start' }).click()
    const dialog = page.getByRole('dialog')
    await dialog.getByRole('combobox', { name: /^Run/ }).selectOption('shell')
    await dialog.getByRole('combobox', { name: /^Power/ }).selectOption('keep')
    await dialog.getByText('Own files, devices, translation').click()
    await dialog.getByLabel('Own kernel').selectOption('Image-real')
    await dialog.getByRole('button', { name: 'Start' }).click()
    await page.getByRole('alert').filter({ hasText: 'CMDQ_PROD' }).waitFor({ timeout: BOOT_MS })
    expect(manager.status()).toMatchObject({ state: 'held', held: { trap: { write: true } } })
    // While it is held, the queue shows the command before it was consumed, and nothing is shadowed yet.
    await page.keyboard.press('3')
    await page.getByText('CFGI_STE', { exact: true }).first().waitFor()
    const banner = page.getByRole('alert').filter({ hasText: 'CMDQ_PROD' })
    // The banner names the commands, also in a narrow window.
    await banner
      .getByText(/^CFGI_STE sid=0x[0-9a-f]+ leaf$/)
      .first()
      .waitFor()
    expect(await page.title()).toBe('held at a trap · smmu-cosim')
    expect(await violations(page)).toEqual([])
    await page.setViewportSize({ width: 480, height: 800 })
    for (const control of await banner.getByRole('button').all()) {
      const box = await control.boundingBox()
      expect(box === null ? Number.POSITIVE_INFINITY : box.x + box.width).toBeLessThanOrEqual(480)
    }
    expect(await violations(page)).toEqual([])
    const seq = manager.status().held?.trap.seq ?? 0
    await page.keyboard.press('F10')
    await until(() => (manager.status().held?.trap.seq ?? 0) === seq + 1)
    await page.keyboard.press('8')
    await page.getByRole('button', { name: /^Remove breakpoint/ }).click()
    await page.getByText('No breakpoint is set').waitFor()
    await page.keyboard.press('F8')
    await until(() => manager.status().phase === 'userspace', BOOT_MS)
    expect(manager.status().options).toMatchObject({ image: 'Image-real' })
    expect(manager.status().kernel).toMatch(/^6\.12\./)
  },
  BOOT_MS * 2,
)

describe('on a booted machine', () => {
  test('traps arrive live, can be filtered, and show what was done for them', async () => {
    await open('traps')
    type('dd if=/dev/vda of=/dev/null bs=4k count=50 iflag=direct')
    await page.locator('.virtual .trap').nth(5).waitFor()
    await page.getByLabel('Command', { exact: true }).selectOption('CFGI_STE')
    await page.locator('.virtual .trap', { hasText: 'CFGI_STE' }).first().waitFor()
    await page.locator('.virtual .trap').last().click()
    await page.locator('.child', { hasText: 'nested' }).first().waitFor()
    await page.locator('.child table tr.differs', { hasText: 'S2TTB' }).first().waitFor()
  })

  test('traps: invalidations are one line that opens, and commands have their arguments', async () => {
    await open('traps')
    await button('Clear').waitFor({ state: 'detached' })
    const run = page.locator('.virtual .trap.run').last()
    type('dd if=/dev/vda of=/dev/null bs=4k count=200 iflag=direct')
    await run.waitFor()
    await button('Pause space').click()
    await button('Follow f').click()
    await run.click()
    await page
      .locator('.virtual .trap.in-run', { hasText: /TLBI_NH_VA .*asid=.*addr=0x/ })
      .first()
      .waitFor()
    await run.click()
    await page.getByLabel('Command', { exact: true }).selectOption('CFGI_STE')
    await page.locator('.virtual .trap', { hasText: 'CFGI_STE sid=0x8 leaf' }).first().waitFor()
    // Time since the line above, in guest time.
    await expect
      .poll(() => page.locator('.virtual .trap > :nth-child(3)').last().textContent())
      .toMatch(/^[\d.]+ (µs|ms|s)$/)
  })

  test('traps: bytes beside the fields', async () => {
    await open('traps')
    await page.getByLabel('Command', { exact: true }).selectOption('CFGI_STE')
    await page.locator('.virtual .trap').last().click()
    const command = page.locator('.child.command', { hasText: 'CFGI_STE sid=' }).first()
    const field = command.locator('.bit-fields tr', { hasText: 'StreamID' })
    expect((await field.textContent())?.replace(/\s/g, '')).toMatch(/^\[63:32\]StreamID0x/)
    await field.hover()
    // Bits 63 to 32 are bytes 4 to 7.
    const on = await command.locator('.dump td').evaluateAll(all => all.map(e => e.className === 'on'))
    expect(on.flatMap((marked, i) => (marked ? [i] : []))).toEqual([4, 5, 6, 7])
  })

  test('traps: the time line zooms, and leads to the traps of a time', async () => {
    await open('traps')
    const line = page.getByRole('img', { name: /traps; plus and minus zoom/ })
    await line.waitFor()
    const span = page.locator('.time-line .mono')
    const whole = await span.textContent()
    await line.focus()
    await page.keyboard.press('+')
    await expect.poll(() => span.textContent()).not.toBe(whole)
    await page.keyboard.press('Enter')
    await page.locator('.detail h2', { hasText: /^Trap \d+/ }).waitFor()
    await button('Only these traps').click()
    const [from, to] = ((await span.textContent()) ?? '').split(/[–s]/).map(Number)
    await page.locator('.virtual .trap').nth(2).waitFor()
    const times = await page.locator('.virtual .trap > :nth-child(2)').allTextContents()
    expect(Math.min(...times.map(Number))).toBeGreaterThanOrEqual(Number(from) - 1e-6)
    expect(Math.max(...times.map(Number))).toBeLessThanOrEqual(Number(to) + 1e-6)
    await button('All').click()
    await expect.poll(() => span.textContent()).toMatch(new RegExp(`^${whole?.split(' ')[0]}`))
    await button('Clear').click()
  })

  test('traps: at 1920 px no kernel function is cut', async () => {
    await page.setViewportSize({ width: 1920, height: 1080 })
    await open('traps')
    await page.getByLabel('Filter by text').fill('CMDQ_PROD')
    await page.locator('.virtual .trap .function', { hasText: 'arm_smmu_cmdq_issue_cmdlist' }).first().waitFor()
    const cut = await page
      .locator('.virtual .trap .function')
      .evaluateAll(all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.textContent))
    expect(cut).toEqual([])
  })

  test('at 1280 px no time of a trap is cut, and no fact', async () => {
    await open('traps')
    await page.getByLabel('Command', { exact: true }).selectOption('CFGI_STE')
    const rows = page.locator('.virtual .trap')
    await rows.nth(3).waitFor()
    await rows.last().click()
    await page.locator('.detail .facts dd').first().waitFor()
    const cut = () =>
      page
        .locator('.virtual .trap > :is(:nth-child(2), :nth-child(3), :nth-child(10)), .facts dd')
        .evaluateAll(all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.textContent))
    expect(await cut()).toEqual([])
    await open('overview')
    await page.locator('.machine .facts dd', { hasText: 'power keep' }).waitFor()
    expect(await cut()).toEqual([])
  })

  test('one clock: the guest’s, or the server’s', async () => {
    await open('traps')
    const time = page.locator('.virtual .trap > :nth-child(2)').last()
    await expect.poll(() => time.textContent()).toMatch(/^\d+\.\d{6}$/)
    await page.getByRole('button', { name: 'Guest time' }).click()
    await expect.poll(() => time.textContent()).toMatch(/^\d\d:\d\d:\d\d\.\d{3}$/)
    await open('overview')
    await page
      .locator('.reports-list time')
      .first()
      .filter({ hasText: /^\d\d:\d\d:\d\d\.\d{3}$/ })
      .waitFor()
    await page.getByRole('button', { name: 'Clock time' }).click()
    await page
      .locator('.reports-list time')
      .first()
      .filter({ hasText: /^\d+\.\d{6} s$/ })
      .waitFor()
  })

  test('traps name the kernel function that made them', async () => {
    await open('traps')
    await page.getByLabel('Filter by text').fill('CMDQ_PROD')
    await page.locator('.virtual .trap .function', { hasText: 'arm_smmu_cmdq_issue_cmdlist' }).first().waitFor()
    const { items } = manager.history.traps.read(1, 1e6, { kinds: ['trap'] })
    expect(items.length).toBeGreaterThan(100)
    expect(items.filter(({ where }) => !/^arm_smmu_/.test(where ?? ''))).toEqual([])
    expect(items.find(({ register }) => register === 'IDR0')?.where).toBe('arm_smmu_device_probe')
    // As scripts see it.
    const { stdout } = await ctl('traps', '--limit', '3', '--register', 'CMDQ_PROD')
    expect(stdout.trimEnd().split('\n')).toEqual(Array(3).fill(expect.stringContaining('in arm_smmu_cmdq_')))
  })

  test('streams: host and shadow side by side, tables browsable', async () => {
    await open('streams')
    await page.getByRole('button', { name: /virtio-blk/ }).click()
    const config = page.locator('table.fields tr.differs', { hasText: 'Config' })
    await config.getByText('nested').waitFor()
    await page.getByRole('button', { name: /stage 2/ }).click()
    await page.locator('.tables .as-link').first().click()
    expect(await page.locator('.crumbs button').count()).toBe(2)
  })

  test('walks an address through both stages', async () => {
    await open('translation?sid=8&iova=0xfffff000')
    await page.locator('.step', { hasText: 'Stage 2' }).first().waitFor()
    await page.locator('.result', { hasText: 'translated' }).waitFor()
    await page.getByLabel('Input address (IOVA)').fill('0x1000')
    await button('Walk').click()
    await page.locator('.result', { hasText: 'F_TRANSLATION' }).waitFor()
    // An error stands in the place of the walk before.
    await page.route('**/walk?*', route => route.abort())
    await button('Walk').click()
    await page.getByRole('alert').filter({ hasText: 'the server cannot be reached' }).waitFor()
    expect(await page.locator('.step, .result').count()).toBe(0)
    complaints = complaints.filter(text => !text.includes('ERR_FAILED'))
  })

  test('donates a page, the map changes, and reclaims it', async () => {
    await open('memory')
    // The field is the selection.
    await page.getByLabel('Address').fill('0x70000000')
    await page.locator('.memory-view td', { hasText: 'host' }).waitFor()
    await page.getByLabel('Address').fill('0x7000')
    await page.getByRole('heading', { name: 'In the selection' }).waitFor()
    await page.getByLabel('Address').fill('0x70000001')
    await page.getByRole('heading', { name: 'In sight' }).waitFor()
    await page.getByLabel('Address').fill('0x70000000')
    await button('Donate').click()
    await page.getByText('Donated 4 KiB at 0x70000000').waitFor()
    await page.locator('.memory-view td', { hasText: 'VM 1' }).waitFor()
    await button('Donate').click()
    await page.getByText('The hypervisor refused: EPERM. The page at 0x70000000 belongs to VM 1.').waitFor()
    await button('Reclaim').click()
    await page.getByText('Reclaimed 4 KiB').waitFor()
    await page.locator('.memory-view td', { hasText: 'host' }).waitFor()
  })

  test('the memory map by keyboard, down to one page', async () => {
    await open('memory')
    const map = page.getByRole('img', { name: /^Map of 0x40000000 to 0x80000000/ })
    await map.focus()
    await page.keyboard.press('ArrowRight')
    await page.keyboard.press('ArrowDown')
    // A row of cells on is the selection, and its start a multiple of what a row holds.
    const address = page.getByLabel('Address')
    await expect.poll(() => address.inputValue()).not.toBe('')
    expect(Number(await address.inputValue()) % 2 ** 20).toBe(0)
    for (let i = 0; i < 8; i++) await page.keyboard.press('+')
    await page.getByText('4 KiB a cell').waitFor()
    await page.keyboard.press('ArrowRight')
    await expect.poll(() => page.locator('.memory-view input').nth(1).inputValue()).toBe('1')
  })

  test('queues: what the host wrote beside what the hardware got, nothing cut', async () => {
    await open('queues')
    const rows = page.locator('.pairs tbody tr')
    await rows.filter({ hasText: 'TLBI_NH_VA' }).filter({ hasText: 'the same' }).first().waitFor()
    // A command that was rewritten stands beside what it became: both on more than one line, none cut.
    const heights = await rows.evaluateAll(all => all.map(row => row.getBoundingClientRect().height))
    expect(Math.max(...heights)).toBeLessThan(70)
    const text = page.locator('.pairs td')
    expect(await text.evaluateAll(all => all.filter(e => e.scrollWidth > e.clientWidth).length)).toBe(0)
    // One base: places in the queues are hexadecimal as the registers' values are.
    const places = await page.locator('.gauge dd, .pairs td.num').allTextContents()
    const numbers = places.filter(place => /\d/.test(place))
    expect(numbers.length).toBeGreaterThan(20)
    expect(numbers.filter(place => !place.startsWith('0x'))).toEqual([])
  })

  test('the recording so far is a file that can be read', async () => {
    await open('overview')
    const [file] = await Promise.all([
      page.waitForEvent('download'),
      page.getByRole('link', { name: 'Download recording' }).click(),
    ])
    const reader = TraceReader.open(await file.path())
    expect([...reader.records()].filter(({ kind }) => kind === 'trap').length).toBeGreaterThan(100)
    expect(reader.problems).toEqual([])
  })

  test('the console takes what is typed', async () => {
    const typed = vi.spyOn(manager, 'type')
    await open('console')
    await page.getByLabel('Serial console').waitFor()
    // The shell asked where the cursor is, more than once; a page that shows the console does not answer.
    const shown = () => page.evaluate<string>(`document.querySelector('.xterm-rows').textContent`)
    await expect.poll(shown, { timeout: STEP_MS }).toMatch(/~.#/)
    await page.waitForTimeout(500)
    expect(typed).not.toHaveBeenCalled()
    await page.locator('.xterm-screen').click()
    await page.keyboard.type('echo $((6 * 7))-typed\n', { delay: 10 })
    await until(() =>
      /^42-typed/m.test(
        manager.history.console
          .read(0, 1e9, undefined)
          .items.map(({ text }) => text)
          .join(''),
      ),
    )
  })

  test('faults: arm a rule of one’s own, see it fire, look at its trap, disarm', async () => {
    await open('faults')
    await page.getByText('Nothing is armed').waitFor()
    await page.getByText('Own rules').click()
    const rules = page.getByLabel('Rules, YAML or JSON')
    const rule = (register: string) => `rules:
  - name: cons-reads
    where: { at: register, register: ${register}, access: read }
    when: { times: 2 }
    what: { do: delay, ms: 1 }
  - name: warn-now
    where: { at: machine }
    when: { time: 10000000 }
    what: { do: warn, warning: HYP_UNMAP }
`
    await rules.fill(rule('CMDQ_CONZ'))
    complaints = []
    await button('Arm').click()
    await page.locator('.rule-errors li', { hasText: 'did you mean' }).waitFor()
    expect(await page.locator('.rule-errors button').textContent()).toMatch(/^3:/)
    expect(await page.locator('.numbers .wrong').textContent()).toBe('3')
    // The browser reports the refusal as an error of its own.
    complaints = complaints.filter(text => !text.includes('422'))
    await rules.fill(rule('CMDQ_CONS'))
    await button('Arm').click()
    const armed = page.locator('.armed tbody tr')
    await armed.filter({ hasText: 'cons-reads' }).waitFor()
    type('dd if=/dev/vda of=/dev/null bs=4k count=50 iflag=direct')
    await armed.filter({ hasText: 'cons-reads' }).getByText('spent').waitFor()
    const fired = page.locator('.firings tbody tr')
    await fired.filter({ hasText: 'cons-reads 2' }).waitFor()
    await button('Fire warn-now now').click()
    await fired.filter({ hasText: 'HYP_UNMAP forced' }).waitFor()
    const reads = page.locator('.effect tbody tr', { hasText: 'Disk reads' }).locator('td').nth(3)
    await expect.poll(async () => Number(await reads.textContent()), { timeout: STEP_MS }).toBeGreaterThanOrEqual(50)
    await page.locator('.effect tr.hit', { hasText: 'Warning HYP_UNMAP' }).waitFor()
    await fired.filter({ hasText: 'cons-reads 1' }).getByRole('link').click()
    await page.locator('.detail .child.fault').first().waitFor()
    await page.goBack()
    await button('Disarm').click()
    await page.locator('.armed').getByText('Nothing is armed').waitFor()
    expect((await manager.faults.status()).armed).toBe(false)
    expect((await ctl('faults')).stdout).toMatch(/^nothing is armed/)
  })

  test('a warning leads to the section of its rule, and that to others', async () => {
    await open('overview')
    await page.locator('.reports-list').getByRole('link', { name: 'HYP_UNMAP', exact: true }).first().click()
    const at = (name: string) => page.getByRole('heading', { name, exact: true })
    await expect.poll(async () => (await at('9. Stage-2 idmap').boundingBox())?.y ?? 0).toBeLessThan(150)
    await page.getByRole('article').getByRole('link', { name: '8. Page ownership', exact: true }).click()
    await expect.poll(async () => (await at('8. Page ownership').boundingBox())?.y ?? 0).toBeLessThan(150)
    await page.goBack()
    await expect.poll(async () => (await at('9. Stage-2 idmap').boundingBox())?.y ?? 0).toBeLessThan(150)
  })

  test('faults: the catalogue by text, kind and keyboard', async () => {
    await open('faults')
    const rows = page.getByRole('list', { name: 'Faults', exact: true }).getByRole('button')
    await rows.first().waitFor()
    const all = await rows.count()
    expect(all).toBeGreaterThanOrEqual(40)
    await page.getByLabel('Kind').selectOption('pages')
    expect(await rows.count()).toBeLessThan(all)
    await page.getByLabel('Kind').selectOption('')
    await page.keyboard.press('/')
    await page.keyboard.type('cr0ack')
    await expect.poll(() => rows.count()).toBeLessThan(10)
    await page.getByLabel('Filter faults by text').blur()
    await page.keyboard.press('j')
    await page.locator('.arm h3', { hasText: 'cr0ack-stuck' }).waitFor()
    await page.keyboard.press('j')
    await page.locator('.arm h3', { hasText: 'cr0ack-late' }).waitFor()
    await button('Change its rules').click()
    expect(await page.getByLabel('Rules, YAML or JSON').inputValue()).toMatch('register: ARM_SMMU_CR0ACK')
  })

  test('power: an SMMU is switched off and on, and the guest notices nothing', async () => {
    await open('overview')
    const power = page.locator('.power')
    await power.getByText('on', { exact: true }).waitFor()
    await button('Switch SMMU 0 off').click()
    await power.getByText('off', { exact: true }).waitFor()
    await button('Switch SMMU 0 on').click()
    await power.getByText('on', { exact: true }).waitFor()
    await power.getByText('switched off: 1, on: 1, refused: 0').waitFor()
    await page.locator('.reports-list').getByText('SMMU 0 off: OK').waitFor()
    // By somebody else: the page follows.
    await ctl('power', 'off', '--retained')
    await power.getByText('off, registers kept').waitFor()
    await ctl('power', 'on')
    await power.getByText('on', { exact: true }).waitFor()
    type('dd if=/dev/vda of=/dev/null bs=4k count=4 iflag=direct 2>/dev/null && echo reads-$((6 * 7))')
    const said = () => manager.history.console.read(0, 1e9, undefined).items.map(({ text }) => text)
    await until(() => /^reads-42/m.test(said().join('')))
  })

  test('pause and resume', async () => {
    await open('overview')
    await button('Pause').click()
    await page.getByRole('status', { name: 'Machine paused' }).waitFor()
    await button('Resume').click()
    await page.getByRole('status', { name: 'Machine running' }).waitFor()
  })

  test('survives a restart of the server', async () => {
    await open('overview')
    await page.getByRole('status', { name: 'Machine running' }).waitFor()
    const port = Number(new URL(server.url).port)
    await server.close()
    await page.getByText('The connection to the server is lost').waitFor()
    // Nothing says that the machine runs, and nothing can be done with it.
    await page.getByRole('status', { name: 'Machine no connection' }).waitFor()
    expect(await page.title()).toBe('no connection · smmu-cosim')
    expect(
      await page
        .getByRole('banner')
        .getByRole('button')
        .evaluateAll(all => all.filter(e => !e.disabled).length),
    ).toBe(0)
    expect(await page.locator('.state.running').count()).toBe(0)
    server = await start(port)
    await page.getByText('The connection to the server is lost').waitFor({ state: 'hidden' })
    await page.getByRole('status', { name: 'Machine running' }).waitFor()
    // What the browser says about a server that was away is no complaint of the page.
    complaints = withoutServerAway(complaints)
  })

  test(
    'every view, wide and narrow, dark and light: nothing for axe-core, nothing wider than the window',
    async () => {
      const wrong: string[] = []
      for (const theme of ['dark', 'light'] as const) {
        await page.emulateMedia({ colorScheme: theme })
        for (const width of [480, 1280, 1920]) {
          await page.setViewportSize({ width, height: 800 })
          for (const view of [...VIEWS, 'reference']) {
            await open(view)
            await page.reload()
            await page.getByRole('status', { name: /^Machine running/ }).waitFor()
            await page.waitForTimeout(300)
            if (view === 'traps') await page.locator('.virtual .trap').last().click()
            if (view === 'streams') await page.locator('.tree button').first().click()
            const where = `${view}, ${theme}, ${width} px`
            expect(await page.evaluate<string>('document.documentElement.dataset.theme')).toBe(theme)
            wrong.push(...(await violations(page)).map(text => `${where}: ${text}`))
            if (await page.evaluate<boolean>('document.documentElement.scrollWidth > innerWidth'))
              wrong.push(`${where}: wider than the window`)
          }
        }
      }
      expect(wrong).toEqual([])
    },
    BOOT_MS * 2,
  )

  test('narrow: the views have their names', async () => {
    await page.setViewportSize({ width: 480, height: 800 })
    await open('overview')
    for (const name of ['Translation', 'Attack']) {
      const link = page.getByRole('navigation').getByText(name, { exact: true })
      await link.click()
      await page.getByRole('heading', { name, exact: true, level: 1 }).waitFor({ state: 'attached' })
      const box = await link.boundingBox()
      expect(box === null ? -1 : box.x + box.width).toBeLessThanOrEqual(480)
    }
  })

  test('keyboard help; dark and light', async () => {
    await open('overview')
    await page.getByRole('status', { name: 'Machine running' }).waitFor()
    await page.keyboard.press('?')
    await page.getByRole('dialog', { name: 'Keyboard' }).waitFor()
    await page.keyboard.press('Escape')
    const theme = () => page.evaluate<string>('document.documentElement.dataset.theme')
    const before = await theme()
    await page.keyboard.press('t')
    expect(await theme()).not.toBe(before)
  })

  test('kill asks first', async () => {
    await open('overview')
    await button('Kill').click()
    const asks = page.getByRole('dialog', { name: 'Kill the machine?' })
    expect(await violations(page)).toEqual([])
    await asks.getByRole('button', { name: 'Cancel' }).click()
    await asks.waitFor({ state: 'hidden' })
    expect(manager.status().state).toBe('running')
    await button('Kill').click()
    await asks.getByRole('button', { name: 'Kill the machine' }).click()
    await page.getByText(/ended at .*ended from here/).waitFor()
    expect(manager.status().state).toBe('off')
  })

  test('recordings: that of this machine, decided again', async () => {
    await open('runs')
    const rows = page.locator('.runs-view tbody tr')
    await rows
      .getByRole('button', { name: /^Replay/ })
      .first()
      .click()
    await page.locator('pre.steps', { hasText: 'traps replayed in' }).waitFor({ timeout: BOOT_MS })
    expect(await violations(page)).toEqual([])
  })

  test('the life of the machine is in its recording', async () => {
    const [segment] = await manager.recordedSegments()
    const states = () =>
      [...TraceReader.open(String(segment?.path)).records()].flatMap(record =>
        record.kind === 'machine' ? [record.state] : [],
      )
    const { running, paused, poweredOff, ended } = machineState
    await until(() => states().includes(ended))
    expect(states()).toEqual([running, paused, running, poweredOff, ended])
  })
})
